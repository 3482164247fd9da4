FROM python:3.13-slim AS build
COPY . /src
RUN python -m venv /opt/gripproxy \
    && /opt/gripproxy/bin/pip install --no-cache-dir --disable-pip-version-check /src

FROM python:3.13-slim
COPY --from=build /opt/gripproxy /opt/gripproxy
COPY conf /etc/gripproxy
ENV PATH=/opt/gripproxy/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Any other user works as well: nothing is written.
USER 65534:65534
EXPOSE 7999 5560 5561 5562
ENTRYPOINT ["gripproxy"]
CMD ["--config", "/etc/gripproxy/gripproxy.conf"]
