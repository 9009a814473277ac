# Varve. `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
STAGE := .ci/stage
UNITS := $$(go list ./... | grep -v /enginetest)
export CGO_ENABLED := 0

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## ?/  make \1\t/' | expand -t 24

build: ## build bin/varve
	@[ -n "$(BUILT)" ] || go build -trimpath -ldflags "-s -w -X main.version=$$(git describe --always --dirty 2>/dev/null || echo dev)" -o bin/varve ./cmd/varve

run: build ## start a broker on 127.0.0.1:9092, data under ./varve-data
	@exec ./bin/varve broker

demo: build ## produce, consume, seal, kill -9 and read back a real corpus
	@.ci/demo

# What needs Maven is set up one after the other. What waits by the clock has the machine first; what computes, and clients, run beside it.
# A stage that fails does not keep the others from being run.
test: ## install what the tests need, and run everything
	@$(STAGE) set-up-lint .ci/setup-lint & lint=$$!; $(STAGE) set-up-suites .ci/setup-suites & suites=$$!; trap "kill $$lint $$suites" INT TERM; \
	 failed=; for what in kafka clients aws; do $(STAGE) set-up-$$what .ci/setup-$$what || failed=1; done; \
	 wait $$lint && wait $$suites && [ -z "$$failed" ]
	@$(MAKE) --no-print-directory build
	@nice -n 10 $(MAKE) -k --no-print-directory BUILT=1 lint unit models sim infra tools clients suites & computing=$$!; trap "kill $$computing" INT TERM; \
	 $(MAKE) -k --no-print-directory BUILT=1 end-to-end cluster restore aws; waiting=$$?; \
	 wait $$computing && exit $$waiting

lint: ## formatting, golangci-lint, vet
	@$(STAGE) gofmt bash -c 'out=$$(gofmt -l . | grep -v ^.tools/); [ -z "$$out" ] || { echo "not formatted:"; echo "$$out"; exit 1; }'
	@.ci/setup-lint
	@$(STAGE) golangci-lint bash -c 'for module in . test infra; do (cd $$module && $(CURDIR)/.tools/golangci-lint run --allow-parallel-runners --timeout 10m ./...) || exit; done'
	@$(STAGE) vet bash -c 'go -C test vet ./... && go -C bench/loadgen vet ./...'

unit: ## unit tests and the fuzz corpora
	@$(STAGE) unit bash -c 'go test $(UNITS)'

models: ## the exhaustive checks of the fencing protocol
	@$(STAGE) models .ci/models

sim: ## simulated brokers under faults: one, and three to five
	@$(STAGE) simulation go test -count=1 -v -timeout 30m ./engine/enginetest

end-to-end: build ## the real binary: the probe against Apache Kafka's answers, kill -9 under load, a full disk, bad input, start times
	@$(STAGE) probe go -C test test -count=1 ./probe
	@$(STAGE) kill-9 go -C test test -count=1 ./survive
	@$(STAGE) faults go -C test test -count=1 ./faults

cluster: build ## three brokers under load, on files, versitygw and DynamoDB Local, LocalStack: kill -9, SIGSTOP, rolling restarts, cut networks, bad stores
	@.ci/setup-aws
	@$(STAGE) cluster go -C test test -count=1 -v -timeout 30m ./cluster

restore: build ## a lost catalogue rebuilt, and a rolling upgrade from the previous commit, under load
	@$(STAGE) restore go -C test test -count=1 -v -timeout 20m ./restore

tools: build ## the command line, Kafka's own tools, and kcat
	@$(STAGE) command-line go -C test test -count=1 ./cli
	@$(STAGE) tools go -C test test -count=1 ./tools

clients: build ## nine real clients through every feature: the table of docs/clients.md
	@.ci/setup-clients
	@$(STAGE) clients go -C test test -count=1 -parallel 4 ./clients

suites: build ## other projects' integration tests: franz-go, rskafka, kafka-python
	@.ci/setup-suites
	@$(STAGE) suites go -C test test -count=1 ./suites

aws: build ## the adapters, brokers on them, and the deployed functions, against LocalStack, DynamoDB Local and versitygw
	@.ci/setup-aws
	@$(STAGE) aws go -C test test -count=1 -timeout 20m ./aws

infra: ## the deployment's templates (needs Node and Python)
	@$(STAGE) infra .ci/infra

soak: build ## the long version: thousands of seeds, twenty rounds of kills, benchmarks
	@$(STAGE) unit bash -c 'go test -count=1 $(UNITS)'
	@VARVE_SIM_SEEDS=2000 $(STAGE) simulation go test -count=1 -v -timeout 3h ./engine/enginetest
	@SURVIVE_ROUNDS=20 $(STAGE) kill-9 go -C test test -count=1 -timeout 1h ./survive
	@START_BYTES=10737418240 $(STAGE) start-on-10-GiB go -C test test -count=1 -v -timeout 1h -run TestStartOnData ./faults
	@CLUSTER_ROUNDS=20 $(STAGE) cluster go -C test test -count=1 -v -timeout 6h ./cluster
	@$(MAKE) --no-print-directory bench

bench: build ## measure against Apache Kafka, side by side
	@bench/run.py

bench-replay: ## measure replay against plain reads, and against a consumer of Apache Kafka
	@bench/replay.sh

bench-cluster: build ## measure three brokers on S3 and DynamoDB against three Apache Kafka nodes
	@.ci/setup-aws
	@bench/cluster.py

.PHONY: help build run demo test lint unit models sim end-to-end cluster restore tools clients suites aws infra soak bench bench-replay bench-cluster
