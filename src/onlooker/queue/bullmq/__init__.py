"""The queue engine `bullmq`: Redis or Valkey, in the wire format of BullMQ 6."""

from onlooker.queue.bullmq.address import Address as Address
from onlooker.queue.bullmq.engine import BullmqQueue as BullmqQueue
