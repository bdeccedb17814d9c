-- KEYS[1] the call. Only what is kept has a status, 0 where its answer was too large.
return redis.call('HMGET', KEYS[1], 'status', 'head', 'body')
