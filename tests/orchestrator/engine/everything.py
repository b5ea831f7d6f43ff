"""Definitions with steps of every kind."""

from __future__ import annotations

READ = """
    protocol: web5
    operation: extract_identity_features
    input_mapping: {did: "{{input.did}}", recipient_address: r}
    output_mapping: {links: "{{output.links}}"}
"""
READ_ITEM = READ.replace("input.did", "item")
UNDO = """    compensate:
      protocol: web5
      operation: store_transaction_record
      input_mapping: {did: d, transaction_data: {undone: true}}
"""
STORE = """
    protocol: web5
    operation: store_transaction_record
    input_mapping: {did: "{{input.did}}", transaction_data: {}}
    output_mapping: {record: "{{output.record_id}}"}
"""


def indent(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in text.splitlines())


def steps(*listed: str) -> str:
    """A definition of these steps, each an id and what follows it."""
    return "id: example\nname: example\nsteps:\n" + "".join(f"  - id: {step}\n" for step in listed)


def call(id: str, body: str = READ, more: str = "") -> str:
    return f"{id}{body}{more}"


EVERYTHING = f"""
id: everything
name: everything
deadline: 2h
steps:
  - id: base
    set: {{limit: 2, names: [a, b, c], who: "{{{{input.did}}}}"}}
  - id: first_store{STORE}
    retry: {{max_attempts: 4, backoff: 100ms, max_delay: 1s, jitter: 0.2}}
    timeout: 20s
    compensate:
      protocol: web5
      operation: store_transaction_record
      input_mapping:
        did: "{{{{input.did}}}}"
        transaction_data: {{undoes: "{{{{steps.first_store.record}}}}"}}
  - id: choose
    switch:
      - when: "{{{{steps.base.limit}}}} > 5"
        steps:
          - id: never{indent(READ, 8)}
      - steps:
          - id: pause
            wait: {{duration: 30s}}
  - id: both
    parallel:
      branches:
        left:
          - id: look{indent(READ, 8)}
            on_error:
              steps:
                - id: note
                  set: {{why: "{{{{steps.look._error}}}}"}}
        right:
          - id: keep{indent(STORE, 8)}
            compensate:
              protocol: web5
              operation: store_transaction_record
              input_mapping: {{did: d, transaction_data: {{}}}}
  - id: race
    parallel:
      wait_for: first
      branches:
        answer:
          - id: ask{indent(READ, 8)}
        patience:
          - id: long_enough
            wait: {{duration: 10s}}
  - id: each
    for_each:
      items: "{{{{steps.base.names}}}}"
      max_concurrency: 2
      on_item_error: continue
      steps:
        - id: name_it
          set: {{text: "{{{{item}}}} {{{{index}}}}"}}
        - id: save
          protocol: web5
          operation: store_transaction_record
          input_mapping: {{did: "{{{{item}}}}", transaction_data: {{}}}}
          output_mapping: {{record: "{{{{output.record_id}}}}"}}
      collect: {{text: "{{{{steps.name_it.text}}}}", record: "{{{{steps.save.record}}}}"}}
  - id: last
    condition: "{{{{steps.each.failed}}}} > 0"
    end: {{outcome: failed, reason: "{{{{steps.each.failed}}}} were not stored"}}
"""
