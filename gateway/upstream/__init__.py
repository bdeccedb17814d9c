"""The only HTTP client that carries inference traffic: asyncio and httptools, a keep-alive pool, deadlines, proxies."""
