# Orthanc with the pathology plugin.
# Build from the repository's root: docker build -f docker/orthanc.Dockerfile -t orthanc-pathology .
#
# Debian forky, for its Orthanc is 1.13: those before 1.12.11 have published vulnerabilities (CVE-2026-5437 to
# CVE-2026-5445), Debian 12's 1.10.1 and 13's 1.12.7 among them. Build it again for Debian's updates.
FROM debian:forky-slim

# The plugin needs Orthanc's own Python and nothing else.
# hadolint ignore=DL3008
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        ca-certificates curl orthanc orthanc-python orthanc-dicomweb orthanc-wsi \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o orthanc -g orthanc -m 700 /var/lib/orthanc/db-v6

COPY LICENSES /opt/orthanc-pathology/LICENSES
COPY docker/secrets-to-environment.sh /opt/orthanc-pathology/secrets-to-environment.sh
COPY orthanc.json /etc/orthanc-pathology/orthanc.json
COPY orthanc_plugin /opt/orthanc-pathology/orthanc_plugin

USER orthanc
WORKDIR /var/lib/orthanc
VOLUME /var/lib/orthanc/db-v6
EXPOSE 8042
ENV PYTHONDONTWRITEBYTECODE=1 ORTHANC_REMOTE_ACCESS=true
# 401 is an answer too: the server is up, and the check needs no password.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["sh", "-c", "code=$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:${ORTHANC_HTTP_PORT:-8042}/pathology/health); [ \"$code\" = 200 ] || [ \"$code\" = 401 ]"]
ENTRYPOINT ["/opt/orthanc-pathology/secrets-to-environment.sh"]
CMD ["/usr/sbin/Orthanc", "/etc/orthanc-pathology/orthanc.json"]
