"""Decentralized web node messages, profile tbd-0.5: what dwn-sdk-js 0.5 writes and reads.

Pure: nothing in here keeps, sends or asks the time. How a client that cannot import this package
writes a message, here the RecordsRead with which a payer reads the record of a payment:

* descriptor = ``{"interface": "Records", "method": "Read", "filter": {"recordId": ...},
  "messageTimestamp": "2026-01-31T12:00:00.000000Z"}``, always UTC with six decimals.
* descriptorCid = ``"b" + base32(01 71 12 20 || SHA-256(dag-cbor(descriptor)))``, lower case without
  padding. ``libipld.encode_dag_cbor`` gives the bytes, ``libipld.encode_multibase("b", ...)`` the
  text; integral numbers must be ints.
* payload = base64url of the JSON ``{"descriptorCid": ...}``, protected = base64url of the JSON
  ``{"kid": "<did>#<fragment>", "alg": "EdDSA"}`` (or ES256K, ES256: the algorithm of the key).
* signature = base64url of the signature over ``protected + "." + payload``; ECDSA as r || s.
* message = ``{"descriptor": ..., "authorization": {"signature": {"payload": ..., "signatures":
  [{"protected": ..., "signature": ...}]}}}``.

The reply's entry.recordsWrite is the record's newest message. Its data is that record's if
``unixfs.data_cid(data) == descriptor.dataCid``: up to 262,144 bytes, ``"b" + base32(01 55 12 20 ||
SHA-256(data))``.
"""
