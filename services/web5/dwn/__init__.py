"""Decentralized web node (DWN) messages, profile tbd-0.5: those of dwn-sdk-js 0.5.

This package is pure: it stores and sends nothing and reads no clock. A client that cannot import it
writes a message as follows; the example is the RecordsRead of a payer for the record of a payment:

* descriptor = ``{"interface": "Records", "method": "Read", "filter": {"recordId": ...},
  "messageTimestamp": "2026-01-31T12:00:00.000000Z"}``, in UTC with six decimals.
* descriptorCid = ``"b" + base32(01 71 12 20 || SHA-256(dag-cbor(descriptor)))``, lower case without
  padding. ``libipld.encode_dag_cbor`` gives the bytes, ``libipld.encode_multibase("b", ...)`` the
  text; integral numbers must be ints.
* payload = base64url of the JSON ``{"descriptorCid": ...}``, protected = base64url of the JSON
  ``{"kid": "<did>#<fragment>", "alg": "EdDSA"}`` (or ES256K, ES256: the algorithm of the key).
* signature = base64url of the signature over ``protected + "." + payload``; ECDSA as r || s.
* message = ``{"descriptor": ..., "authorization": {"signature": {"payload": ..., "signatures":
  [{"protected": ..., "signature": ...}]}}}``.

The reply's entry.recordsWrite is the record's newest message. The reply's data is genuine if
``unixfs.data_cid(data) == descriptor.dataCid``; for up to 262,144 bytes this CID is ``"b" +
base32(01 55 12 20 || SHA-256(data))``.
"""
