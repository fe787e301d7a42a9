# A small image that runs pyproxy:
#
#   docker build -t pyproxy .
#   docker run --rm --network host pyproxy -host-port 1234 -container-ip 172.19.0.2 -container-port 1234
#
# It runs as nobody in particular, which is enough for ports from 1024 up; for lower ones add `--user 0`.
# The target `bench` adds iperf3: docker build --target bench -t pyproxy-bench .

# Any image with Python 3.11 or later and its venv module.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# Say, --no-index --find-links=/source/build/wheels where no package index can be reached.
ARG PIP_FLAGS=
COPY . /source
RUN python3 -m venv --without-pip /opt/pyproxy \
 && python3 -m venv /tmp/pip \
 && /tmp/pip/bin/pip --python /opt/pyproxy/bin/python install --no-cache-dir ${PIP_FLAGS} /source

FROM ${BASE} AS bench
RUN command -v iperf3 || (apt-get update && apt-get install -y --no-install-recommends iperf3 && rm -rf /var/lib/apt/lists/*)
COPY --from=build /opt/pyproxy /opt/pyproxy
ENTRYPOINT ["iperf3"]

FROM ${BASE}
COPY --from=build /opt/pyproxy /opt/pyproxy
USER 65532:65532
ENTRYPOINT ["/opt/pyproxy/bin/pyproxy"]
