"""The task for Celery's worker, on a quorum queue.

Safest: acknowledged late, one at a time, confirmed.
"""

from celery import Celery
from common import QUEUE, SAFEST, URL, work_off

app = Celery("celery_app", broker=URL)
app.conf.update(
    task_default_queue=QUEUE,
    task_default_queue_type="quorum",
)
if SAFEST:
    app.conf.update(
        broker_transport_options={"confirm_publish": True},
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
    )


@app.task
def process_order(order):
    work_off(order)
