# docker build -t bids_flair . && docker run --rm --gpus all -v /data:/data:ro -v /out:/out bids_flair /data /out participant
FROM python:3.12-slim

COPY . /opt/bids_flair
RUN pip install --no-cache-dir --constraint /opt/bids_flair/constraints.txt /opt/bids_flair \
    && cp /opt/bids_flair/run.py /opt/bids_flair/data_descriptor.json / \
    && rm -rf /opt/bids_flair

# Any user may run it: nothing is written but the output and, below /tmp, the work directory.
ENV HOME=/tmp
WORKDIR /tmp
ENTRYPOINT ["/run.py"]
