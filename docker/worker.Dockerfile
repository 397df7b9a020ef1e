# Workers: the extras `worker` with torch and `tasks` with lm-eval. For a small CPU image build with
# --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu; without it the default wheels bring CUDA.
FROM python:3.11-slim
ARG TORCH_INDEX_URL=""
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
COPY docker/entrypoint.sh /usr/local/bin/entrypoint.sh
USER espalier
VOLUME /var/lib/espalier
ENTRYPOINT ["entrypoint.sh"]
CMD ["worker"]
