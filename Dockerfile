# Two stages, so that the image carries no compiler and no pip cache.
# A tag can be moved to another image.  With the digest of the one that you have looked at, builds repeat:
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# Exactly the files whose hashes are in the locks; the build of wsapp downloads nothing else.
COPY requirements.txt requirements.lock requirements-build.lock ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
    && python -m venv /build && /build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY wsapp wsapp
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /venv/bin/pip install --no-cache-dir --no-deps --no-index /wheel/*.whl
# Readable for the server's user also where the umask of who checked them out hides them from others.
COPY app.py gunicorn.conf.py /app/
COPY config /app/config
RUN chmod -R u=rwX,go=rX /app

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --no-create-home --home-dir /srv --shell /usr/sbin/nologin wsapp
COPY --from=build /venv /venv
WORKDIR /srv
COPY --from=build /app ./
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 WSAPP_BIND=0.0.0.0
# By number: Kubernetes' runAsNonRoot cannot see that a name is not root's.
USER 10001:10001
EXPOSE 3001
# Alive, not ready: an orchestrator that restarts a container because Redis is away makes things worse.
# Over plain HTTP and past HTTP_PROXY: where the port speaks TLS, maybe to clients with a certificate only, its 400
# says that the worker answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", \
    "import http.client, os; e = os.environ.get; c = http.client.HTTPConnection(e('WSAPP_BIND') or '0.0.0.0', int(e('WEBSOCKET_PORT') or 3001), timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != (400 if e('WSAPP_TLS_CERTIFICATE') else 200))"]
# exec form: gunicorn is process 1 and gets SIGTERM itself, so that it drains.
CMD ["gunicorn", "-c", "gunicorn.conf.py", "app:app"]
