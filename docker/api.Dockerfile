# API, reconciler and migrations: the base install, without torch.
FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/espalier
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY espalier espalier
COPY library library
COPY workers workers
COPY migrations migrations
# Editable: one copy of the sources.
RUN pip install -c constraints.txt -e ./library -e '.[otel]' \
 && useradd --uid 10001 --create-home espalier \
 && install -d -o espalier /var/lib/espalier
COPY docker/entrypoint.sh /usr/local/bin/entrypoint.sh
USER espalier
EXPOSE 8000
ENTRYPOINT ["entrypoint.sh"]
CMD ["api"]
