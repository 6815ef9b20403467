# The image of `tenantry serve`.
#
#   docker build -t tenantry .                           the service
#   docker build -t tenantry:python --target python .    the same with Python and pip
#
# Your blueprint goes on top (docs/operations.md, "The image"):
#
#   FROM tenantry
#   COPY blueprint /etc/tenantry/blueprint

ARG RUST_VERSION=1.95
ARG DEBIAN=trixie

FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS build
WORKDIR /build
ENV CARGO_TERM_COLOR=never
# writes the list of dependencies into the binary, for scanners of images
RUN cargo install --locked cargo-auditable@0.7.7

# The dependencies alone, with an empty program: this layer lasts until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it \
    && echo 'fn main() {}' >src/main.rs \
    && cp src/main.rs tests/it/main.rs \
    && touch src/lib.rs \
    && cargo auditable build --locked --release

COPY tenantry.default.toml ./
COPY migrations migrations
COPY examples/crm examples/crm
COPY examples/starter examples/starter
COPY src src
# cargo goes by the times of files: what was copied may be older than the empty program
RUN touch src/main.rs src/lib.rs && cargo auditable build --locked --release

# debian-slim and not distroless: an image FROM this one can install what its blueprint needs.
FROM debian:${DEBIAN}-slim AS tenantry
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tenantry" \
      org.opencontainers.image.description="Turns identity events into ready tenants" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 1001 tenantry \
    && useradd --uid 1001 --gid 1001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tenantry
# for calls of the identity providers' APIs
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/tenantry /usr/local/bin/tenantry
# tenantry.toml and blueprint/ are looked for here; nothing is ever written
WORKDIR /etc/tenantry
ENV TENANTRY__SERVER__LISTEN=0.0.0.0:8420 \
    TENANTRY__LOG__FORMAT=json
# by number, so that Kubernetes can see that it is not root
USER 1001:1001
EXPOSE 8420
STOPSIGNAL SIGTERM
# alive, not ready: an outage of Postgres is no reason to restart
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 CMD ["tenantry", "health"]
ENTRYPOINT ["tenantry"]
CMD ["serve"]

# For images whose migrations are Alembic's: FROM tenantry:python, RUN pip install ….
FROM tenantry AS python
# the packages only: the last word is 1001 again
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv \
    && chown -R 1001:1001 /opt/venv
ENV PATH=/opt/venv/bin:$PATH
USER 1001:1001

# the last stage is what `docker build` makes without --target
FROM tenantry
