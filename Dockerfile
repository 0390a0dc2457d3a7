# The app in a container; see README, "A Space or a server of your own".
#   docker build -t s2l .                                          CPU
#   docker build -t s2l --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .    NVIDIA GPU
#   docker run -p 7860:7860 -v s2l-cache:/cache s2l                (GPU: add --gpus all)
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 1000 user \
    && mkdir /cache && chown user:user /cache
USER user
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_HOME=/cache/hub \
    S2L_CACHE=/cache
WORKDIR /home/user/app

# torch first and alone: its index holds nothing else, and this layer survives changes of the rest.
COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user --index-url "$TORCH_INDEX" "$(grep '^torch' requirements.txt)" \
    && pip install --no-cache-dir --user -r requirements.txt

COPY --chown=user . .

VOLUME /cache
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["python", "app.py"]
