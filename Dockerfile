# Five targets: proxy (nginx), api (no torch in it), serve (one artifact), worker (CPU) and worker-cuda. All run as an ordinary user.
#   docker build --target api -t lathe-api .
# Images by tag; `make pin` finds out their digests.
ARG PYTHON_IMAGE=python:3.12-slim
ARG DEBIAN_IMAGE=debian:13-slim

FROM ${DEBIAN_IMAGE} AS proxy
# Debian's, which deploy/proxy/nginx.conf is tested with; its configuration is mounted.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnginx-mod-stream nginx \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 lathe
USER lathe
EXPOSE 8080 8443
CMD ["nginx", "-e", "stderr", "-g", "daemon off;"]

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 LATHE_HOME=/var/lib/lathe
RUN useradd --create-home --uid 10001 lathe && install -d -o lathe -g lathe /var/lib/lathe
WORKDIR /srv/lathe
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY requirements ./requirements
COPY compression ./compression
COPY app ./app
COPY client ./client
COPY workers ./workers
COPY migrations ./migrations

FROM base AS api
RUN pip install --require-hashes --no-deps --requirement requirements/api.txt \
    && pip install --no-deps --no-build-isolation .
USER lathe
EXPOSE 8321
HEALTHCHECK CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8321/healthz/ready').raise_for_status()"]
CMD ["python", "-m", "app.server", "--host", "0.0.0.0", "--port", "8321"]

FROM base AS serve
# One artifact, at /artifact: docker run -v ./small:/artifact -p 8400:8400 -e LATHE_SERVE_KEY=SECRET lathe-serve
RUN pip install --require-hashes --no-deps --requirement requirements/serve.txt \
    && pip install --no-deps --no-build-isolation .
USER lathe
EXPOSE 8400
HEALTHCHECK CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8400/readyz').raise_for_status()"]
ENTRYPOINT ["lathe", "serve", "/artifact", "--host", "0.0.0.0"]

FROM base AS confined
# bubblewrap is used where the runtime allows user namespaces; elsewhere workers use Landlock (docs/operations.md, Confinement).
# Apertium and WordNet are for augmentation: words of like meaning, and a pair of languages. qemu-user asks int8 files under AVX2;
# of its emulators, some 430 MB, x86's alone stays.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends apertium apertium-eng-spa bubblewrap qemu-user wordnet-base \
    && find /usr/bin -name 'qemu-*' ! -name qemu-x86_64 -delete \
    && rm -rf /var/lib/apt/lists/*
ENV LATHE_WORDNET=/usr/share/wordnet

FROM confined AS worker
# The CPU build, from torch's own index: PyPI's build would bring gigabytes of CUDA. A release of torchvision needs one of torch.
RUN pip install --require-hashes --no-deps --requirement requirements/worker.txt \
    && pip install --index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt \
        'torch>=2.13,<3' 'torchvision>=0.28,<1' \
    && pip install --no-deps --no-build-isolation .
USER lathe
ENTRYPOINT ["python", "-m", "workers"]
CMD ["jobs"]

FROM confined AS worker-cuda
# PyPI's torch brings its own CUDA libraries; the host needs only a driver and the NVIDIA container toolkit. ONNX Runtime's build
# for GPUs takes the place of the locked one: both are one module, and it trails it by a release (docs/gpu.md). nvidia-ml-py is
# the extra `cuda`: no list of hashes has it. Triton, which torch.compile uses on a card, compiles launchers of kernels by gcc.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --require-hashes --no-deps --requirement requirements/worker.txt \
    && pip install --constraint constraints.txt 'torch>=2.13,<3' 'torchvision>=0.28,<1' \
    && pip uninstall --yes onnxruntime \
    && pip install --no-deps nvidia-ml-py==13.615.71 onnxruntime-gpu==1.31.1 \
    && pip install --no-deps --no-build-isolation .
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER lathe
ENTRYPOINT ["python", "-m", "workers"]
CMD ["jobs", "--device", "cuda:0"]
