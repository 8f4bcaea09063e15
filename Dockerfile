# The image that manifests/install uses: the binary and a stock Envoy.
#
#   make build envoy && cp "$(hack/envoy)" bin/envoy && docker build -t sluice .
FROM debian:bookworm-slim
# The programs of the engines iptables and ipvs; nftables needs none.
RUN apt-get update && apt-get install -y --no-install-recommends iptables kmod && rm -rf /var/lib/apt/lists/*
COPY bin/sluice /sluice
COPY bin/envoy /usr/local/bin/envoy
ENTRYPOINT ["/sluice"]
