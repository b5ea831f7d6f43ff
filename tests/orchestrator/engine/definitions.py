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
    """Returns a definition of these steps, each an id and its body."""
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

# Steps that fail inside other steps, and steps that wait for events and approvals.
NESTED = f"""
id: nested
name: nested
deadline: 2h
steps:
  - id: base
    set: {{limit: 2}}
  - id: matrix
    for_each:
      items: [[1, 2], [3]]
      max_concurrency: 2
      on_item_error: continue
      steps:
        - id: row
          set: {{number: "{{{{index}}}}"}}
        - id: cells
          for_each:
            items: "{{{{item}}}}"
            steps:
              - id: sides
                parallel:
                  branches:
                    one:
                      - id: ask_one{indent(READ, 20)}
                    two:
                      - id: write_two{indent(STORE, 20)}
              - id: cell
                set: {{text: "{{{{steps.row.number}}}} {{{{item}}}}"}}
            collect: {{text: "{{{{steps.cell.text}}}}"}}
      collect: {{cells: "{{{{steps.cells.results}}}}"}}
  - id: guarded
    parallel:
      branches:
        kept:
          - id: write_kept{indent(STORE, 8)}
          - id: write_more{indent(STORE, 8)}
        watched:
          - id: ask_watched{indent(READ, 8)}
    on_error:
      errors: [FAILED_PRECONDITION]
      steps:
        - id: sorry
          set: {{why: "{{{{steps.guarded._error}}}}"}}
  - id: sub
    workflow: inner
    input_mapping: {{did: "{{{{input.did}}}}", limit: "{{{{steps.base.limit}}}}"}}
    output_mapping: {{found: "{{{{output.found}}}}"}}
    on_error: {{}}
  - id: tell
    emit: {{type: example.done, subject: me, data: {{limit: "{{{{steps.base.limit}}}}"}}}}
  - id: answered
    wait_for: {{all: [{{event: example.done}}, {{event: example.other}}], correlation: me}}
    on_error: {{}}
  - id: agreed
    approval:
      approvers: ["did:example:a", "did:example:b", "did:example:c"]
      quorum: 2
      text: "Go on with {{{{steps.base.limit}}}}?"
      timeout: 10m
    on_error: {{}}
"""

# Handlers of errors that the end of the run interrupts, or that end it.
HANDLERS = f"""
id: handlers
name: handlers
deadline: 2h
steps:
  - id: both
    parallel:
      branches:
        left:
          - id: look{indent(READ, 8)}
            on_error:
              steps:
                - id: look_again{indent(READ, 14)}
                - id: write_why{indent(STORE, 14)}
        right:
          - id: keep{indent(STORE, 8)}
          - id: keep_more{indent(STORE, 8)}
    on_error:
      errors: [FAILED_PRECONDITION]
      steps:
        - id: ask_why{indent(READ, 6)}
          on_error:
            steps:
              - id: give_up
                end: {{outcome: failed, reason: "{{{{steps.both._error}}}}"}}
  - id: sub
    workflow: inner
    input_mapping: {{did: "{{{{input.did}}}}", limit: 1}}
    output_mapping: {{found: "{{{{output.found}}}}"}}
    on_error:
      steps:
        - id: look_for_it{indent(READ, 6)}
  - id: last
    set: {{links: "{{{{steps.look.links}}}}", found: "{{{{steps.sub.found}}}}"}}
"""

INNER = f"""
id: inner
name: a workflow inside another
steps:
  - id: note
    set: {{limit: "{{{{input.limit}}}}"}}
  - id: enough
    switch:
      - when: "{{{{input.limit}}}} > 5"
        steps:
          - id: stop
            end: {{outcome: "refused", reason: too much}}
  - id: record_it{STORE}
    compensate:
      protocol: web5
      operation: store_transaction_record
      input_mapping: {{did: d, transaction_data: {{}}}}
  - id: result
    set: {{found: "{{{{steps.record_it.record}}}}"}}
"""
