"""What every command owes a user who made a mistake."""


def told_in_one_line(process, *words):
    """Exit code 1, a single line on stderr's end, no traceback, all words in it."""
    last = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    assert last.startswith("hsexport: ")
    for word in words:
        assert word in last, (word, last)
    return last
