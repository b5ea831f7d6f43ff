"""From seeds to a released model version. Needs the extra ``train``; serving imports none of it."""
