"""The rules that the model can break, one switch for each clause that closes a hole of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Everything on is the protocol. The number is the rule's; what a clause is replaced by stands beside it."""

    r1_lock: bool = True
    """Off: `seq` is given before the lock, so that two ingesting processes may commit in the other order."""

    r2_head: bool = True
    """Off: a worker takes the job that the message names."""

    r3_one_step: bool = True
    """Off: a worker looks in one transaction and takes, if the row is still free, in another."""

    r3_others: bool = True
    """Off: take looks at the head alone and not at what else of the session is processing."""

    r4_cap: bool = True
    """Off: only a failed call is measured against the cap, not a lease that is over."""

    r5_fence: bool = True
    """Off: a worker writes whatever became of the row."""

    r5_status: bool = True
    """Off: the fence asks for the token alone, and completing leaves the token in the row."""

    r5_read_again: bool = True
    """Off: a commit whose reply was lost is believed to have happened."""

    r6_all_rows: bool = True
    """Off: a batch completes those of its rows that it still holds."""

    r6_contiguous: bool = True
    """Off: a batch leaves out what does not fit and goes on behind it."""

    r6_one_key: bool = True
    """Off: a batch may mix events of two keys; whether the first one's is revoked is looked at."""

    r6_give_back: bool = True
    """Off: when a batch is refused, the rows that it still holds wait for their lease to run out."""

    r6_singly: bool = True
    """Off: a job that failed in a batch is taken in a batch again."""

    r6_joint_end: bool = True
    """Off: a refusal that would dead-letter a single job dead-letters the head of a batch, whoever was meant."""

    r7_confirm_first: bool = True
    """Off: look at the head and ring it, then confirm."""

    r7_ring: bool = True
    """Off: a finished job does not ring the next head."""

    r7_release: bool = True
    """Off: when the fence refuses, the claim is left to run out."""

    r7_look_after_delay: bool = True
    """Off: only a confirm is followed by a look at the head, a release with a back-off is not."""

    r8_pull: bool = True
    """Off: ringing leaves the due time of what is delayed."""

    r9_park: bool = True
    """Off: a message whose head is not due is released without a delay."""

    r9_ring: bool = True
    """Off: cancel and retry ring nothing."""

    r10_sweep: bool = True
    """Off: nothing reconciles."""

    r10_lone: bool = True
    """Off: the sweep rings the sessions' heads only, not the jobs with no session."""

    r11_lease_only: bool = True
    """Off: losing the queue's claim cancels the call."""

    r12_row_first: bool = True
    """Off: a worker that stops releases its message, then puts its row back."""

    r12_attempt: bool = True
    """Off: a worker that stops does not give the attempt back."""

    r13_uncapped: bool = True
    """Off: the queue dead-letters a message that was claimed `MESSAGE_CAP` times."""
