"""Reading: columns, arrays, tables, pictures, and the record of an image."""
