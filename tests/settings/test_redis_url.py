"""The URLs of Redis servers and of sentinels."""

import pytest

from gateway.settings.load import load
from gateway.settings.problems import ConfigError
from gateway.settings.redis_url import RedisUrl, parse_redis_url


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis://", RedisUrl((("localhost", 6379),))),
        ("redis://cache", RedisUrl((("cache", 6379),))),
        ("redis://cache:7000/3", RedisUrl((("cache", 7000),), db=3)),
        ("redis://cache?db=3", RedisUrl((("cache", 6379),), db=3)),
        ("redis://[::1]:7000/", RedisUrl((("::1", 7000),))),
        ("redis://:pw@cache/0", RedisUrl((("cache", 6379),), password="pw")),
        ("redis://u:p%40%2F%23:x@cache", RedisUrl((("cache", 6379),), username="u", password="p@/#:x")),
        ("redis://u:hunter2@odd@cache/0", RedisUrl((("cache", 6379),), username="u", password="hunter2@odd")),
        ("redis://cache?username=u&password=p%26w", RedisUrl((("cache", 6379),), username="u", password="p&w")),
        ("unix:///run/redis.sock", RedisUrl((), path="/run/redis.sock")),
        ("unix://u:pw@/run/redis.sock?db=2", RedisUrl((), path="/run/redis.sock", db=2, username="u", password="pw")),
        ("rediss://cache", RedisUrl((("cache", 6379),), tls={"ssl_check_hostname": True})),
        (
            "rediss://cache/0?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false&ssl_cert_reqs=required",
            RedisUrl(
                (("cache", 6379),),
                tls={"ssl_ca_certs": "/etc/ca.pem", "ssl_check_hostname": False, "ssl_cert_reqs": "required"},
            ),
        ),
        (
            "redis+sentinel://a,b:7000,[::1]/main",
            RedisUrl((("a", 26379), ("b", 7000), ("::1", 26379)), service="main"),
        ),
        (
            "rediss+sentinel://u:pw@a,b/main/2?sentinel_username=s&sentinel_password=spw",
            RedisUrl(
                (("a", 26379), ("b", 26379)),
                service="main",
                db=2,
                username="u",
                password="pw",
                sentinel_username="s",
                sentinel_password="spw",
                tls={"ssl_check_hostname": True},
            ),
        ),
    ],
)
def test_a_url_says_where_and_as_whom(url: str, meant: RedisUrl) -> None:
    assert parse_redis_url(url) == meant


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://u:hunter2#x@h/0", "must be a URL such as redis://host:6379/0; in a password write # as %23"),
        ("redis://u:hunter2/x@h/0", "must have hosts such as"),
        ("redis://u:hunter2?x@h/0", "must have hosts such as|has an option"),
        ("redis://h:hunter2/0", "must have hosts such as redis.example.com:6379"),
        ("redis://h:99999/0", "must have hosts such as"),
        ("redis://h/hunter2", "must have a database's number"),
        ("redis://h/0/hunter2", "must have a database's number"),
        ("redis://h?db=hunter2", "must have a database's number"),
        ("redis://a,b/0", r"must name one host; several sentinels take redis\+sentinel://"),
        ("redis://h?hunter2", "has an option that redis:// does not know; it takes db, username, password$"),
        ("redis://h?ssl_ca_certs=hunter2", "has an option that redis:// does not know"),
        ("redis://h?sentinel_password=hunter2", "has an option that redis:// does not know"),
        ("rediss://h?ssl_ca_cert=hunter2", "it takes db, username, password, ssl_ca_certs, "),
        ("rediss://h?ssl_cert_reqs=hunter2", "must have required, optional or none as its ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=hunter2", "must have true or false as its ssl_check_hostname"),
        ("unix://run/hunter2", "must have the socket's path behind three slashes"),
        ("unix://", "must have the socket's path behind three slashes"),
        ("redis+sentinel://u:hunter2@a,b", "must name the sentinels and the service they watch"),
        ("redis+sentinel:///main", "must name the sentinels and the service they watch"),
        ("redis+sentinel://a,,b/main", "must have hosts such as"),
        ("redis+sentinel://a/main/hunter2", "must have a database's number"),
    ],
)
def test_a_malformed_url_is_refused_in_words_that_do_not_repeat_it(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_redis_url(url)
    assert SECRET not in str(refused.value)
    with pytest.raises(ConfigError, match=f"storage.counters: .*({said})") as told:
        load(None, {"REDIS_URL": url}, {})
    assert SECRET not in str(told.value)


def test_a_repr_shows_no_password() -> None:
    url = "rediss+sentinel://u:hunter2@a/main?sentinel_password=hunter2&ssl_password=hunter2"
    assert SECRET not in repr(parse_redis_url(url))
