"""What Onlooker does, in terms of storage, queue and providers; no transport and no SQL here."""
