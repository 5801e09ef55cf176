"""What overrides say of a job."""

from temporal_sae.overrides.keys import identity, key_of, varying_keys, what_varies


def test_words_about_overrides():
    assert identity(["+a=1", "b=2", "overwrite=true"]) == {"+a=1", "b=2"}
    assert key_of("++a.b=c=d") == "a.b"
    jobs = [["a=1", "b=2", "s=1"], ["b=2", "a=2", "s=1"], ["a=1", "tracker=off", "s=1"]]
    assert varying_keys(jobs) == {"a", "b", "tracker"}
    assert what_varies(jobs[2], varying_keys(jobs)) == "a=1 tracker=off"
    assert varying_keys([]) == varying_keys(jobs[:1]) == set()
