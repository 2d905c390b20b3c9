# The web service on the light installation, without torch. README.md has the commands.
FROM python:3.13-slim AS build
COPY . /source
RUN python -m venv /opt/captioner && /opt/captioner/bin/pip install --no-cache-dir '/source[web]'

FROM python:3.13-slim
COPY --from=build /opt/captioner /opt/captioner
ENV PATH=/opt/captioner/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp
USER 65534:65534
EXPOSE 8000
HEALTHCHECK --start-period=20s --timeout=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["captioner", "web", "--host", "0.0.0.0"]
