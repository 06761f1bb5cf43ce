# vqseg in a container, on the CPU:
#   docker build -t vqseg . && docker run --rm -v "$PWD:/work" vqseg train --dataset_dir DIR
# or with NVIDIA GPUs (docker run --gpus all), whose libraries come with PyTorch from PyPI:
#   docker build -t vqseg --build-arg TORCH_INDEX=https://pypi.org/simple .
# BASE may be any image with apt, such as nvidia/cuda:13.0.1-base-ubuntu24.04.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m venv --help >/dev/null 2>&1 || (apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/vqseg && /opt/vqseg/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
COPY . /src
RUN /opt/vqseg/bin/pip install --no-cache-dir "/src[dicom,foundation]" && rm -rf /src
ENV PATH=/opt/vqseg/bin:$PATH
WORKDIR /work
ENTRYPOINT ["vqseg"]
CMD ["--help"]
