# The image that manifests/install uses: the binary and a stock Envoy.
#
#   make build envoy && cp "$(hack/envoy)" bin/envoy && docker build -t sluice .
FROM debian:bookworm-slim
COPY bin/sluice /sluice
COPY bin/envoy /usr/local/bin/envoy
ENTRYPOINT ["/sluice"]
