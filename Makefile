# Varve. `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
STAGE := .ci/stage
export CGO_ENABLED := 0

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## ?/  make \1\t/' | expand -t 24

build: ## build bin/varve
	@go build -trimpath -ldflags "-s -w -X main.version=$$(git describe --always --dirty 2>/dev/null || echo dev)" -o bin/varve ./cmd/varve

run: build ## start a broker on 127.0.0.1:9092, data under ./varve-data
	@exec ./bin/varve broker

.PHONY: help build run
