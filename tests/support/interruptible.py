"""Processes that can be interrupted from a test."""

import signal


def listen_to_ctrl_c():
    """For `preexec_fn`: a shell that starts these tests in the background has them ignore it, and children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
