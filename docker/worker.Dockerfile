# Workers: the extras `worker` with torch and `tasks` with lm-eval. The default wheels bring CUDA 13, which takes an NVIDIA
# driver of 580 or newer and a GPU from Turing (T4) on. For an older driver, or Volta (V100), build with --build-arg CUDA=12
# --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126, for a small CPU image with CUDA=none and .../whl/cpu.
FROM python:3.11-slim
ARG TORCH_INDEX_URL=""
ARG CUDA="13"
LABEL espalier.cuda=$CUDA
# No GPU but those that Docker or the device plugin grants (they set the first anew), and of the driver what torch takes.
ENV NVIDIA_VISIBLE_DEVICES=void NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/espalier
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY espalier espalier
COPY library library
COPY workers workers
COPY migrations migrations
RUN pip install ${TORCH_INDEX_URL:+--extra-index-url $TORCH_INDEX_URL} -c constraints.txt -e ./library -e '.[worker,otel,tasks]' \
 && useradd --uid 10001 --create-home espalier \
 && install -d -o espalier /var/lib/espalier
# The image has the CUDA that its label names.
RUN python -c "import torch; got = (torch.version.cuda or 'none').split('.')[0]; assert got == '$CUDA', f'torch has CUDA {got}'"
COPY docker/entrypoint.sh /usr/local/bin/entrypoint.sh
USER espalier
VOLUME /var/lib/espalier
ENTRYPOINT ["entrypoint.sh"]
CMD ["worker"]
