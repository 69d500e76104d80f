# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc=4:12.* libc6-dev=2.36-* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Dependencies first, with an empty program: they are built again only when they change.
COPY Cargo.toml Cargo.lock ./
# Cargo features: `nats` for a fleet's gateway.
ARG FEATURES=
RUN mkdir -p src benches \
    && touch src/lib.rs build.rs benches/event.rs benches/queue.rs benches/load.rs \
    && for file in src/main.rs build.rs; do echo 'fn main() {}' > "$file"; done \
    && cargo build --release --locked --features "${FEATURES}" --bin gmfy-sidecar
COPY build.rs ./
COPY config config
COPY src src
ARG GMFY_REVISION=unknown
# Newer than what was built of the empty program.
RUN touch build.rs src/lib.rs src/main.rs \
    && GMFY_REVISION="${GMFY_REVISION}" cargo build --release --locked --features "${FEATURES}" --bin gmfy-sidecar \
    && mkdir -p /out/var/lib/gmfy-sidecar \
    && cp target/release/gmfy-sidecar /out/

# The C library and the system's certificate authorities; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG GMFY_REVISION=unknown
LABEL org.opencontainers.image.title="gmfy-sidecar" \
      org.opencontainers.image.description="A durable, ordered, local outbox and read cache in front of the GMFY gamification API" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${GMFY_REVISION}"
COPY --from=build /out/gmfy-sidecar /usr/bin/gmfy-sidecar
COPY --from=build --chown=65532:65532 /out/var/lib/gmfy-sidecar /var/lib/gmfy-sidecar
ENV GMFY_QUEUE__DIR=/var/lib/gmfy-sidecar
# glibc gives blocks of this size and more back to the system: the queue's buffers are of 512 KiB. Else a growing
# backlog takes twice the memory (docs/sizing.md).
ENV MALLOC_MMAP_THRESHOLD_=524288
USER 65532:65532
VOLUME /var/lib/gmfy-sidecar
EXPOSE 7461
# SIGTERM drains, for at most shutdown.deadline: give `docker stop` more time than its 10 s.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/bin/gmfy-sidecar", "health"]
ENTRYPOINT ["/usr/bin/gmfy-sidecar"]
CMD ["run"]
