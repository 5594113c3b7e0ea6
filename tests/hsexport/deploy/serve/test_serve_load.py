"""More callers than the server can serve."""

import asyncio

import httpx
import numpy as np
import pytest
from served import GENERATIONS, pictures_of, serving

from hsruntime import Session

SLOW = "large:60"
CALLERS = 48


@pytest.fixture(scope="module")
def server(tiny_bundle):
    with serving(tiny_bundle, "--queue", 4) as server:
        yield server


def flood(server):
    """48 callers at once, each with its own seed; (status, retry-after, answer) of each."""

    async def ask(client, seed):
        response = await client.post(GENERATIONS, json={"prompt": "red", "seed": seed, "schedule": SLOW})
        return response.status_code, response.headers.get("retry-after"), response.json()

    async def all_of_them():
        limits = httpx.Limits(max_connections=CALLERS)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(ask(client, seed) for seed in range(CALLERS)))

    return asyncio.run(all_of_them())


def test_what_finds_no_room_gets_429_and_nobody_gets_anothers_picture(server, tiny_bundle):
    drawn = server.metric("hsexport_pictures_total")
    answers = flood(server)
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 429}
    assert all(again == "1" for status, again, _ in answers if status == 429)
    assert server.metric("hsexport_pictures_total") - drawn == statuses.count(200)
    with Session.open(tiny_bundle, hashes=False) as session:
        for seed, (status, _, answer) in enumerate(answers):
            if status == 200:
                alone = session.generate("red", seed=seed, schedule=SLOW).image
                np.testing.assert_array_equal(pictures_of(answer)[0], alone)


def test_after_the_flood_there_is_room_again(server):
    flood(server)
    assert server.ask(schedule=SLOW).status_code == 200
    assert server.metric("hsexport_queue_length") == 0


def test_more_pictures_than_ever_find_room_are_429_as_a_whole(server):
    drawn = server.metric("hsexport_pictures_total")
    response = server.ask(n=5)
    assert response.status_code == 429 and "room for 4" in response.json()["error"]["message"]
    assert server.metric("hsexport_pictures_total") == drawn
