# Bare `make` prints this help.

GO      ?= go
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sluice
LINT    := $(CACHE)/golangci-lint-$(shell sed -n 's,.*golangci-lint/v2 ,,p' hack/lint/go.mod | cut -d' ' -f1)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# One way of building for the binary and the tests: both find the other's work
# in the cache, and the binary runs in an empty image.
export CGO_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help build demo test kill check lint vet race generated bench envoy vm fuzz dns-lives e2e

help: ## print this help
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## build bin/sluice
	@echo "building bin/sluice"
	@$(GO) build -ldflags '$(LDFLAGS)' -o bin/sluice ./cmd/sluice

demo: build envoy ## show everything on two nodes made of network namespaces; needs no cluster
	@hack/needs dig:bind9-dnsutils
	@bin/sluice demo

test: envoy vm ## run all tests: units, real packets in network namespaces, the real Envoy
	@hack/needs nft:nftables iptables:iptables dig:bind9-dnsutils dnsperf:dnsperf
	$(GO) test -timeout 30m ./...

kill: ## kill the service proxy's process a hundred times in each engine, under load
	$(GO) test -timeout 60m ./proxy/enginetest -run '/Kill' -kills 100 -v

check: lint vet race generated ## lint, vet, race tests, and whether generated files are clean

lint: $(LINT)
	$(LINT) run ./...

vet:
	$(GO) vet ./...

race: envoy vm
	@hack/needs nft:nftables iptables:iptables dig:bind9-dnsutils dnsperf:dnsperf gcc:gcc gcc:libc6-dev
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m ./...

generated:
	hack/generated

bench: build envoy ## measure: cost of a change by size, manifest edit to effect, load through changes
	@hack/needs nft:nftables
	$(GO) run ./bench

bench-proxy: build ## measure the service proxy; KUBE_PROXY=FILE measures that one beside it
	@hack/needs nft:nftables iptables:iptables iperf3:iperf3
	$(GO) run ./bench/proxy -json bench-proxy.json -svg bench-proxy.svg $(if $(KUBE_PROXY),-kube-proxy $(KUBE_PROXY))

bench-ipvs: build ## measure IPVS with 1,000 Services, where the kernel lacks it in a guest; KUBE_PROXY=FILE as above
	@hack/needs ipset:ipset iperf3:iperf3
	$(GO) run ./bench/proxy -modes ipvs -sizes 1000 -memory "" -writes 50 -rounds 3 -json bench-ipvs.json -svg bench-ipvs.svg $(if $(KUBE_PROXY),-kube-proxy $(KUBE_PROXY))

bench-dns: build ## measure the DNS server beside Unbound and dnsmasq; COREDNS=FILE measures that one, too
	@hack/needs dnsperf:dnsperf unbound:unbound dnsmasq:dnsmasq-base taskset:util-linux chrt:util-linux
	$(GO) run ./bench/dns -json bench-dns.json $(if $(COREDNS),-coredns $(COREDNS))

envoy: ## put a stock Envoy into the user's cache
	@hack/envoy >/dev/null

vm: ## put a stock kernel into the user's cache, for tests that this machine's kernel cannot run
	@hack/vm --prepare

fuzz: ## run every fuzz target for FUZZTIME (20s), one after the other
	hack/fuzz $(or $(FUZZTIME),20s)

dns-lives: ## kill, stop, starve and upgrade the node's DNS 50 times each under load, and hold it to its times
	@hack/needs nft:nftables iptables:iptables conntrack:conntrack dnsperf:dnsperf
	$(GO) test ./proxy/intercept -run 'BesideKubeProxy|Upgrade|Storm' -repeat 50 -timeout 3h -v

e2e: build envoy ## install on the cluster of $KUBECONFIG and run the demo's table there
	hack/e2e

# Its version is in its name: a new checkout, whose files are newer, finds it made.
$(LINT): | hack/lint/go.mod
	@echo "building golangci-lint (once, some minutes)"
	@mkdir -p $(CACHE)
	@cd hack/lint && $(GO) build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
