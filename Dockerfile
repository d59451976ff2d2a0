# bids_flair, for GPUs and without:  docker build -t bids_flair .
# without CUDA libraries, smaller:   docker build -t bids_flair:cpu --target cpu .
# `make container` does either with docker, podman or buildah; see docs/container.md.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS base

# What bids_flair needs but for PyTorch. Only these files decide it, so that a change of the source
# installs nothing anew. A pip.conf that the build is given as a secret leaves no trace.
FROM base AS dependencies
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/src/constraints.txt
COPY setup.cfg constraints.txt container/requirements.py ./
RUN python3 -m venv /opt/bids_flair && python3 requirements.py setup.cfg > requirements.txt
ENV PATH=/opt/bids_flair/bin:$PATH
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    pip install --requirement requirements.txt

# PIP_CONSTRAINT pins PyTorch as everything else, which hadolint cannot see.
FROM dependencies AS gpu-packages
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    pip install torch
COPY . .
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    container/install

# TORCH_INDEX_URL: where PyTorch's builds for the CPU are, if pip does not find them by itself.
FROM dependencies AS cpu-packages
ARG TORCH_INDEX_URL=
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    pip install torch ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
    && python -c 'import sys, torch; sys.exit(torch.version.cuda and "This PyTorch is built for CUDA: give --build-arg TORCH_INDEX_URL=")'
COPY . .
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    container/install

FROM base AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bids_flair" \
      org.opencontainers.image.description="A T2-FLAIR for every participant of a BIDS dataset" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY run.py data_descriptor.json /
# FSL is not in the image. Mounted at /opt/fsl it is found; its binaries want the libraries below.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends \
        bc dc file libgomp1 libopenblas0-pthread libquadmath0 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
ENV PATH=/opt/bids_flair/bin:/opt/fsl/bin:$PATH \
    FSLDIR=/opt/fsl FSLOUTPUTTYPE=NIFTI_GZ \
    HOME=/tmp PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
# Any user may run it, from a read-only root: nothing is written but the output and the work folder.
WORKDIR /tmp
ENTRYPOINT ["/run.py"]

FROM runtime AS cpu
COPY --from=cpu-packages /opt/bids_flair /opt/bids_flair

FROM runtime AS gpu
COPY --from=gpu-packages /opt/bids_flair /opt/bids_flair
