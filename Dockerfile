# The app as an image. torch's CUDA libraries come with its wheel, so one image serves CPU and GPU hosts:
#   docker build -t subnetscope .
#   docker run --gpus all -p 127.0.0.1:8501:8501 -v subnetscope-data:/data -v subnetscope-hub:/hub subnetscope
# A folder of the host in place of a volume must be writable for uid 10001.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    SUBNETSCOPE_DATA=/data \
    HF_HOME=/hub \
    NUMBA_CACHE_DIR=/tmp/numba

# Chromium draws figures for papers; --build-arg CHROMIUM= leaves it out.
ARG CHROMIUM="chromium fonts-liberation fonts-dejavu-core"
RUN test -z "$CHROMIUM" || (apt-get update && apt-get install -y --no-install-recommends $CHROMIUM \
    && rm -rf /var/lib/apt/lists/*)

RUN useradd --create-home --uid 10001 subnetscope \
    && mkdir /data /hub \
    && chown subnetscope /data /hub
WORKDIR /app
COPY requirements.txt .
RUN pip install -r requirements.txt
COPY --chown=subnetscope . .
USER subnetscope
# The commit stands in every file that is taken away: --build-arg SUBNETSCOPE_COMMIT=$(git rev-parse HEAD)
ARG SUBNETSCOPE_COMMIT=""
ENV SUBNETSCOPE_COMMIT=$SUBNETSCOPE_COMMIT

VOLUME ["/data", "/hub"]
EXPOSE 8501
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/readyz', timeout=4)"]
CMD ["streamlit", "run", "app.py", "--server.address=0.0.0.0", "--server.port=8501"]
