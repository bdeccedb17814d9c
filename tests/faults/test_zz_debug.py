import asyncio, time
from collections import Counter
from tests.faults.fleet import caller, configuration
from tests.support.billing_upstream import Plan
from tests.support.gateway import running_gateway
async def test_dbg(upstream, tmp_path):
    with running_gateway(tmp_path, configuration(upstream, max_inflight=5000)) as gateway:
        who = await caller(gateway)
        calls = [asyncio.create_task(who.call(gateway.port, Plan(chunks=16, every=3000))) for _ in range(2000)]
        for _ in range(15):
            await asyncio.sleep(1)
            print(upstream.open, len(upstream.bills), Counter((s.status, s.error) for s in who.seen))
        await asyncio.gather(*calls)
        print(upstream.open, len(upstream.bills), Counter((s.status, s.error) for s in who.seen))
        print([l for l in gateway.log() if l["log.level"]!="info"][:3])
