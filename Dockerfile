# Two stages, so that the image carries no compiler and no pip cache.
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements.txt ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY wsapp wsapp
RUN /venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /srv --shell /usr/sbin/nologin wsapp
COPY --from=build /venv /venv
WORKDIR /srv
COPY app.py gunicorn.conf.py ./
COPY config config
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 WSAPP_BIND=0.0.0.0
USER wsapp
EXPOSE 3001
# Alive, not ready: an orchestrator that restarts a container because Redis is away makes things worse.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", \
    "import os, ssl, urllib.request as u; e = os.environ; u.urlopen(f\"http{'s' * bool(e.get('WSAPP_TLS_CERTIFICATE'))}://127.0.0.1:{e.get('WEBSOCKET_PORT', '3001')}/healthz\", timeout=2, context=ssl._create_unverified_context())"]
# exec form: gunicorn is process 1 and gets SIGTERM itself, so that it drains.
CMD ["gunicorn", "-c", "gunicorn.conf.py", "app:app"]
