"""Client addresses: the network that an address counts for, and the proxies that may speak for others."""

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def trusted_networks(spelled: str) -> tuple[Network, ...]:
    """Read FORWARDED_ALLOW_IPS: the proxies that may speak for many callers. `*` names nobody."""
    found: list[Network] = []
    for entry in spelled.split(","):
        try:
            found.append(ipaddress.ip_network(entry.strip(), strict=False))
        except ValueError:
            continue
    return tuple(found)


def client_network(address: str) -> str:
    """Return whom an address counts for: itself, or its /64 in IPv6, of which one machine has all."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        if not found.is_loopback:
            return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
