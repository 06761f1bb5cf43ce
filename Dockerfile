# vqseg in a container, for NVIDIA GPUs (docker run --gpus all) and for CPUs:
#   docker build -t vqseg . && docker run --rm -v "$PWD:/work" vqseg train --dataset_dir DIR
# PyTorch's CPU build is smaller by gigabytes: --build-arg PIP_INDEX_URL=ADDRESS, which is on PyTorch's page "Start
# Locally". BASE may be any image with apt, such as nvidia/cuda:13.0.1-base-ubuntu24.04.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG PIP_INDEX_URL
RUN python3 -m venv --help >/dev/null 2>&1 || (apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/vqseg && /opt/vqseg/bin/pip install --no-cache-dir torch torchvision
COPY . /src
RUN env -u PIP_INDEX_URL /opt/vqseg/bin/pip install --no-cache-dir "/src[dicom,foundation]" && rm -rf /src
ENV PATH=/opt/vqseg/bin:$PATH
WORKDIR /work
ENTRYPOINT ["vqseg"]
CMD ["--help"]
