# The search page for a home server, on the CPU; docs/search.md says how to run it.
FROM python:3.12-slim

COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --compile-bytecode --torch-backend cpu '/src[train,serve,remote,heic,raw]' \
    && pip uninstall --yes uv

# All that is written lies in /data: indexes, marks, downloaded weights and caches. The rest may be read-only.
RUN useradd --uid 10001 --home-dir /data --create-home s2r2
USER s2r2
ENV HOME=/data
WORKDIR /data
VOLUME /data

EXPOSE 8765
HEALTHCHECK --start-period=2m \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8765/api/about', timeout=20)"]
ENTRYPOINT ["s2r2"]
CMD ["serve", "photos.index", "--host", "0.0.0.0", "--port", "8765"]
