"""Workflows that make several payments in a run, and requests to start them."""

from __future__ import annotations

from typing import Any

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from anya.orchestrator.v1 import workflow_pb2 as pb
from services.orchestrator.definition import values
from tests.orchestrator.payment_requests import INPUT, uuid7

STEPS = """
- id: verify{n}
  payment: "{{{{{of}.payment_id}}}}"
  protocol: web5
  operation: verify_identity
  input_mapping: {{did: "{{{{{of}.sender_did}}}}", verification_method: biometric}}
  output_mapping: {{verified: "{{{{output.verified}}}}", score: "{{{{output.confidence}}}}"}}
- id: assess{n}
  payment: "{{{{{of}.payment_id}}}}"
  protocol: ml
  operation: assess_fraud_risk
  input_mapping:
    sender_did: "{{{{{of}.sender_did}}}}"
    recipient_address: "{{{{{of}.recipient_address}}}}"
    amount: "{{{{{of}.amount}}}}"
    sender_verification_score: "{{{{steps.verify{n}.score}}}}"
  output_mapping: {{risk: "{{{{output.risk_score}}}}"}}
- id: pay{n}
  payment: "{{{{{of}.payment_id}}}}"
  protocol: bitcoin
  operation: send_transaction
  condition: "{{{{steps.verify{n}.verified}}}} && {{{{steps.assess{n}.risk}}}} < 0.7"
  input_mapping:
    from_address: "{{{{{of}.sender_address}}}}"
    to_address: "{{{{{of}.recipient_address}}}}"
    amount: "{{{{{of}.amount}}}}"
  output_mapping: {{txid: "{{{{output.txid}}}}", status: "{{{{output.status}}}}"}}
- id: record{n}
  payment: "{{{{{of}.payment_id}}}}"
  condition: "{{{{steps.pay{n}.status}}}} == 'success'"
  protocol: web5
  operation: store_transaction_record
  input_mapping:
    did: "{{{{{of}.sender_did}}}}"
    transaction_data: {{bitcoin_txid: "{{{{steps.pay{n}.txid}}}}"}}
  output_mapping: {{}}
"""


def steps(n: str, of: str, indent: int) -> str:
    """Returns the steps that prove, make and record one payment."""
    text = STEPS.format(n=n, of=of)
    return "\n".join(" " * indent + line for line in text.strip().splitlines())


PAIR = f"""
id: pair
name: Two payments
steps:
{steps("1", "input.first", 2)}
{steps("2", "input.second", 2)}
"""

BATCH = f"""
id: batch
name: One payment after the other
steps:
  - id: each
    for_each:
      items: "{{{{input.payments}}}}"
      max_concurrency: 1
      steps:
{steps("", "item", 8)}
      collect: {{txid: "{{{{steps.pay.txid}}}}"}}
"""

EITHER = """
id: either
name: One of two steps makes the payment
steps:
  - id: which
    switch:
      - when: "{{input.fast}} == true"
        steps:
          - id: one
            payment: "{{input.first.payment_id}}"
            protocol: bitcoin
            operation: send_transaction
            input_mapping: {from_address: a, to_address: b, amount: 1}
            output_mapping: {}
      - steps:
          - id: other
            payment: "{{input.first.payment_id}}"
            protocol: bitcoin
            operation: send_transaction
            input_mapping: {from_address: a, to_address: b, amount: 2}
            output_mapping: {}
"""


def intent(amount_sat: int = INPUT["amount"]) -> PaymentIntent:
    return PaymentIntent(
        network="regtest",
        payment_id=uuid7(),
        sender_did=INPUT["sender_did"],
        sender_address=INPUT["sender_address"],
        recipient_address=INPUT["recipient_address"],
        amount_sat=amount_sat,
    )


def as_input(intent: PaymentIntent) -> dict[str, Any]:
    """Returns the payment in the form of a workflow input."""
    return {
        "payment_id": intent.payment_id,
        "sender_did": intent.sender_did,
        "sender_address": intent.sender_address,
        "recipient_address": intent.recipient_address,
        "amount": intent.amount_sat,
    }


def pair_of(first: PaymentIntent, second: PaymentIntent) -> dict[str, Any]:
    return {"first": as_input(first), "second": as_input(second)}


def batch_of(*intents: PaymentIntent) -> dict[str, Any]:
    return {"payments": [as_input(one) for one in intents]}


def request(
    workflow_id: str, given: dict[str, Any], *intents: PaymentIntent, run_id: str = ""
) -> pb.StartRunRequest:
    asked = pb.StartRunRequest(request_id=run_id or uuid7(), workflow_id=workflow_id)
    values.fill_struct(asked.input, given)
    for at, one in enumerate(intents):
        asked.payments.add(intent=one, presentation=f"vp.jwt {at}")
    return asked
