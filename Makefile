# make run     everything installed into .venv, the app on http://localhost:8501 with the demo in it
# make test    everything installed, all tests
# make lint    style, types

PYTHON ?= python3
PORT ?= 8501
BIN := .venv/bin

.PHONY: run test lint format clean

run: .venv/.installed
	$(BIN)/streamlit run app.py --server.port $(PORT)

test: .venv/.installed-dev
	@sh tests/browser/have-chromium.sh
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Subnetscope needs Python 3.11 or later; name one: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv || { echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }

.venv/.installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

.venv/.installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install -r requirements-dev.txt
	touch .venv/.installed $@
