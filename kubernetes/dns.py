"""Cluster DNS of the real cluster: watches Services, Endpoints and the external names over the API.

Answers A, AAAA, SRV, PTR and CNAME for cluster.local (Services, headless Services, pods) and, for names outside, what the key
`hosts` of ConfigMap kube-system/dns says ("IP name name...", a leading "*." matches any label). Every other name is refused at once with NXDOMAIN.
"""
import ipaddress
import json
import os
import socketserver
import ssl
import struct
import threading
import time
import urllib.request

ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount/'
ZONE = 'cluster.local'
API = 'https://%s:%s' % (os.environ['KUBERNETES_SERVICE_HOST'], os.environ['KUBERNETES_SERVICE_PORT'])
TLS = ssl.create_default_context(cafile=ACCOUNT + 'ca.crt')
TYPES = {'A': 1, 'CNAME': 5, 'PTR': 12, 'AAAA': 28, 'SRV': 33}
TTL = 5

services, endpoints, config = {}, {}, {}
listed = set()


# --- following the API -----------------------------------------------------------------------------------

def get(path):
    token = open(ACCOUNT + 'token').read()
    request = urllib.request.Request(API + path, headers={'Authorization': 'Bearer ' + token})
    return urllib.request.urlopen(request, context=TLS, timeout=330)


def key(o):
    return (o['metadata']['name'], o['metadata']['namespace'])


def follow(path, store):
    joint = '&' if '?' in path else '?'
    while True:
        try:
            first = json.load(get(path))
            objects = {key(o): o for o in first['items']}
            for gone in set(store) - set(objects):
                del store[gone]
            store.update(objects)
            listed.add(path)
            version = first['metadata']['resourceVersion']
            for line in get('%s%swatch=1&timeoutSeconds=300&resourceVersion=%s' % (path, joint, version)):
                event = json.loads(line)
                if event['type'] == 'ERROR':
                    break
                if event['type'] == 'DELETED':
                    store.pop(key(event['object']), None)
                elif event['type'] in ('ADDED', 'MODIFIED'):
                    store[key(event['object'])] = event['object']
        except Exception as error:
            print(path, error, flush=True)
            time.sleep(1)


# --- names ---------------------------------------------------------------------------------------------------

def address(ip):
    return ('AAAA' if ':' in ip else 'A', ip)


def external(name):
    found = []
    hosts = (config.get(('dns', 'kube-system'), {}).get('data') or {}).get('hosts', '')
    for line in hosts.splitlines():
        words = line.split('#')[0].split()
        if any(name == w.lower() or w[:2] == '*.' and name.endswith(w[1:].lower()) for w in words[1:]):
            found.append(address(words[0]))
    return found or None


def reverse(name):
    ip = '.'.join(name.split('.')[3::-1])
    for (service, namespace), o in list(services.items()):
        if ip == o['spec'].get('clusterIP'):
            return [('PTR', '%s.%s.svc.%s' % (service, namespace, ZONE))]
    return None


def host(entry):
    return entry.get('hostname') or entry['ip'].replace('.', '-').replace(':', '-')


def backends(service):
    subsets = endpoints.get(service, {}).get('subsets') or []
    return [(a, s.get('ports') or []) for s in subsets for a in s.get('addresses') or []]


def of_service(labels, service):
    o = services.get(service)
    if not o:
        return None
    spec, full = o['spec'], '%s.%s.svc.%s' % (service[0], service[1], ZONE)
    headless = spec.get('clusterIP') == 'None'
    if spec['type'] == 'ExternalName':
        return None if labels else [('CNAME', spec['externalName'].rstrip('.'))]
    if not labels:
        if headless:
            return [address(a['ip']) for a, _ in backends(service)]
        return [address(ip) for ip in spec.get('clusterIPs') or [spec['clusterIP']]]
    if len(labels) == 1 and headless:
        return [address(a['ip']) for a, _ in backends(service) if host(a) == labels[0]] or None
    if len(labels) == 2 and labels[0].startswith('_'):
        asked = lambda port: '_%s._%s' % (port.get('name'), port.get('protocol', 'TCP').lower()) == '.'.join(labels)
        if headless:
            return [('SRV', (p['port'], '%s.%s' % (host(a), full))) for a, ports in backends(service) for p in ports if asked(p)] or None
        return [('SRV', (p['port'], full)) for p in spec.get('ports', []) if asked(p)] or None
    return None


def lookup(name):
    """None: no such name; else a list of (type, value)."""
    if name.endswith('.in-addr.arpa'):
        return reverse(name)
    if not name.endswith('.' + ZONE):
        return external(name)
    labels = name[:-len(ZONE) - 1].split('.')
    if labels[-1] == 'pod' and len(labels) == 3:
        return [address(labels[0].replace('-', '.'))]
    if labels[-1] != 'svc' or len(labels) < 3:
        return [] if labels in (['svc'], ['pod']) else None
    return of_service(labels[:-3], (labels[-3], labels[-2]))


# --- the wire (RFC 1035) ---------------------------------------------------------------------------------------

def encoded(name):
    return b''.join(bytes([len(label)]) + label.encode() for label in name.split('.') if label) + b'\0'


def data(kind, value):
    if kind in ('A', 'AAAA'):
        return ipaddress.ip_address(value).packed
    if kind == 'SRV':
        return struct.pack('!HHH', 0, 100, value[0]) + encoded(value[1])
    return encoded(value)


def answer(query, limit):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode('latin1'))
        at += query[at] + 1
    asked = struct.unpack('!H', query[at + 1:at + 3])[0]
    question, name = query[12:at + 5], '.'.join(labels).lower()
    records, found = [], lookup(name)
    nxdomain = found is None
    for _ in range(8):  # a chain of aliases, bounded
        alias = [value for kind, value in found or [] if kind == 'CNAME']
        if not alias:
            break
        records.append((name, 'CNAME', alias[0]))
        name, found = alias[0], lookup(alias[0])
    records += [(name, kind, value) for kind, value in found or [] if TYPES[kind] == asked]
    body = b''
    for owner, kind, value in records:
        packed = data(kind, value)
        body += encoded(owner) + struct.pack('!HHIH', TYPES[kind], 1, TTL, len(packed)) + packed
    cut = len(body) + len(question) + 12 > limit
    wants_recursion = struct.unpack('!H', query[2:4])[0] & 0x0100
    flags = 0x8480 | wants_recursion | (3 if nxdomain else 0) | (0x0200 if cut else 0)
    header = query[:2] + struct.pack('!HHHHH', flags, 1, 0 if cut else len(records), 0, 0)
    return header + question + (b'' if cut else body)


class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(answer(self.request[0], 1232), self.client_address)


class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        while length := self.rfile.read(2):
            reply = answer(self.rfile.read(struct.unpack('!H', length)[0]), 65000)
            self.wfile.write(struct.pack('!H', len(reply)) + reply)


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main():
    own = '/api/v1/namespaces/kube-system/configmaps?fieldSelector=metadata.name%3Ddns'
    followed = {'/api/v1/services': services, '/api/v1/endpoints': endpoints, own: config}
    for path, store in followed.items():
        threading.Thread(target=follow, args=(path, store), daemon=True).start()
    while len(listed) < len(followed):
        time.sleep(.05)
    threading.Thread(target=TcpServer(('', 53), Tcp).serve_forever, daemon=True).start()
    print('ready,', len(services), 'services', flush=True)
    socketserver.ThreadingUDPServer(('', 53), Udp).serve_forever()


main()
