# make repro   set up, then run the data part of the pipeline on params.yaml (the demo) and print what the store holds
# make repro-all   the same, then train the systems, evaluate them and write the report
# make repro-mixture   LLM-Seg on LISA's mixture of data sets in small, next to long questions alone (14 minutes on two cores)
# make repro-questions  questions made by the demo's models, checked and verified; LLM-Seg trained on those that passed and others
# make test    set up, then run the tests
# make check   lint, format, types, import layers, wording
# make soak    the exhaustive suites
# make check-readers   zarr-python, zarrs, tensorstore, pyarrow and pandas on a store, in an environment of their own (Python 3.12)
# make check-trainers  accelerate, Lightning and the Hugging Face Trainer on a loader, in an environment of their own
# make bench-read    reading next to other loaders, in an environment of their own (Python 3.12); bench-write: adding a column
# make bench-extract    everything mode and embeddings next to the code they replace
# make bench-scale    what index, info, verify and a dry run take on 100 000 images, and how fast two cores index;
#                     BENCH_OPTIONS=--borrowers: on 118 287 pictures that five data sets borrow
# make bench-bucket    reading a store in a bucket through a link of 20 ms and 200 MB/s
# make bench-train    an epoch from the store, from JSONL, and with vision models in every step
# make bench-dense    dense features in int8 next to float16, on a store that holds both forms
# make check-gpu   everything that only a GPU can show, in parts of at most three minutes, as one table (a CUDA machine);
#                  GPU_OPTIONS=--rehearse: the same parts with tiny models on the CPU
# make screenshots   the pictures of docs/first_hour.md, after make repro-all; needs Chromium
# make clean   remove the demo's data
# make lock    pin the dependencies of pyproject.toml again (versions and hashes, no addresses)

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := true
export PYTHONUTF8 := 1

.PHONY: setup repro repro-all repro-mixture repro-questions test check soak check-readers check-trainers bench-read bench-write bench-extract bench-train bench-scale bench-dense bench-bucket check-gpu lock bench-lock screenshots clean

setup: $(INSTALLED)
	@echo "Next: make repro, which computes the store of the demo; or: source .venv/bin/activate && python cli.py --help"

$(INSTALLED): requirements.lock requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"found Python {sys.version.split()[0]}, expected 3.11 or newer; type: make PYTHON=python3.11 ...")'
	@echo "set-up: the $$(grep -c == requirements.lock) packages of requirements.lock go into .venv (6 GB); nothing more is said until they are there"
	@begun=$$(date +%s) && $(PYTHON) -m venv .venv \
	  && $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock \
	  && $(BIN)/uv pip sync --quiet --system-certs --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock \
	  && touch $(INSTALLED) && echo "set-up: done in $$(($$(date +%s) - begun)) s"

repro: $(INSTALLED)
	@python -m pipeline.repro verify

repro-all: $(INSTALLED)
	@python -m pipeline.repro

MIXTURE := python cli.py --params params/mixture_demo.yaml
repro-mixture: $(INSTALLED)
	python cli.py demo --mixture
	$(MIXTURE) index
	$(MIXTURE) extract
	$(MIXTURE) leaks --run mixture
	printf '%s\n' mixture alone lisa_mixture | xargs -P 2 -I NAME $(MIXTURE) train --name NAME
	printf '%s\n' mixture alone | xargs -P 2 -I NAME $(MIXTURE) evaluate --name NAME > /dev/null
	python -m demo.measure.mixture

QUESTIONS := python cli.py --params params/questions_demo.yaml
repro-questions: $(INSTALLED)
	python cli.py demo --questions
	$(QUESTIONS) index --data scenes,asked
	python -m demo.questions.endpoint --truth data/questions_demo/truth.jsonl -- $(QUESTIONS) questions passed
	python -m demo.questions.endpoint --truth data/questions_demo/truth.jsonl -- $(QUESTIONS) questions unfiltered
	python -m demo.questions.arms
	$(QUESTIONS) index --data arm_passed,arm_unfiltered,arm_rejected
	$(QUESTIONS) extract --data scenes,asked,arm_passed,arm_unfiltered,arm_rejected
	printf '%s\n' passed unfiltered rejected | xargs -P 2 -I NAME $(QUESTIONS) train --name NAME
	printf '%s\n' passed unfiltered rejected | xargs -P 2 -I NAME $(QUESTIONS) evaluate --name NAME > /dev/null
	python -m demo.measure.questions

test: $(INSTALLED)
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

check: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	python -m tests.plain_english

soak: $(INSTALLED)
	python -m pytest -m slow --timeout 3600

BENCH_PYTHON ?= python3.12
BENCH := .venv-bench/installed

bench-read: $(BENCH)
	.venv-bench/bin/python -m tests.benchmarks.read $(BENCH_OPTIONS)

bench-write: $(BENCH)
	.venv-bench/bin/python -m tests.benchmarks.write $(BENCH_OPTIONS)

READERS := .venv-readers/installed

check-readers: $(READERS)
	.venv-readers/bin/python -m tests.readers.check $(READERS_OPTIONS)

$(READERS): tests/readers/requirements.lock $(INSTALLED)
	found="$$(python -m tests.benchmarks.interpreter $(BENCH_PYTHON) check-readers)" && uv venv --quiet --allow-existing --no-python-downloads --python "$$found" .venv-readers
	uv pip sync --system-certs --python .venv-readers/bin/python --require-hashes --compile-bytecode tests/readers/requirements.lock
	@touch $(READERS)

TRAINERS := .venv-trainers/installed

check-trainers: $(TRAINERS)
	.venv-trainers/bin/python -m tests.trainers.check $(TRAINERS_OPTIONS)

$(TRAINERS): tests/trainers/requirements.lock $(INSTALLED)
	uv venv --quiet --allow-existing --no-python-downloads --python "$$(python -c 'import sys; print(sys.executable)')" .venv-trainers
	uv pip sync --system-certs --python .venv-trainers/bin/python --require-hashes --compile-bytecode tests/trainers/requirements.lock
	@touch $(TRAINERS)

$(BENCH): tests/benchmarks/requirements.lock $(INSTALLED)
	found="$$(python -m tests.benchmarks.interpreter $(BENCH_PYTHON))" && uv venv --quiet --allow-existing --no-python-downloads --python "$$found" .venv-bench
	uv pip sync --system-certs --python .venv-bench/bin/python --require-hashes --compile-bytecode tests/benchmarks/requirements.lock
	@touch $(BENCH)

lock: $(INSTALLED)
	uv pip compile --system-certs -q pyproject.toml --group app --group dev --generate-hashes --python-version 3.11 --no-annotate --no-header -o requirements.lock
	echo 'uv==0.13.8' | uv pip compile --system-certs -q - --generate-hashes --no-annotate --no-header -o requirements-uv.lock

bench-extract: $(INSTALLED)
	python -m tests.benchmarks.extract $(BENCH_OPTIONS)

bench-train: $(INSTALLED)
	python -m tests.benchmarks.train $(BENCH_OPTIONS)

bench-scale: $(INSTALLED)
	python -m tests.benchmarks.scale $(BENCH_OPTIONS)

bench-dense: $(INSTALLED)
	python -m tests.benchmarks.dense $(BENCH_OPTIONS)

bench-bucket: $(INSTALLED)
	python -m tests.benchmarks.bucket $(BENCH_OPTIONS)

check-gpu: $(INSTALLED)
	python -m tests.benchmarks.gpu $(GPU_OPTIONS)

bench-lock: $(INSTALLED)
	uv pip compile --system-certs -q tests/benchmarks/requirements.in --generate-hashes --python-version 3.12 --no-annotate --no-header -o tests/benchmarks/requirements.lock
	uv pip compile --system-certs -q tests/readers/requirements.in -c tests/benchmarks/requirements.lock --generate-hashes --python-version 3.12 --no-annotate --no-header -o tests/readers/requirements.lock
	uv pip compile --system-certs -q tests/trainers/requirements.in -c requirements.lock --generate-hashes --python-version 3.11 --no-annotate --no-header -o tests/trainers/requirements.lock

screenshots: $(INSTALLED)
	python -m tests.screenshots

clean: $(INSTALLED)  # the demo's data alone: real data took days of GPU time; what a person put into data/demo is kept
	python -m demo.data.files data/demo
	rm -rf data/store/demo data/store/means/demo data/train/demo data/report/demo data/report/metrics/*/demo data/report/metrics/evaluate/*/demo .dvc/tmp/demo
