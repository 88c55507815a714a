"""Checkpoints: files of any program in, tickets out, and back.

A file's bytes become data in this order: `Contents` (its tensors and what stands beside them), `Layout` of `Entry`
(which tensor is a weight, which its mask), `Checkpoint` (opened, read tensor by tensor), `Ticket` (in memory) or
`Summary` of `Tally` (what ordering and alignment need, without weights), `Pool` (the tickets of one run).

Read: locks, drafts (how files come into their places), masks, regular (what is opened at all), files, header, metadata,
names, ticket, nested, summary, evidence, pool; then how files are read (positions, quantised, packed, safetensors_file;
pickles, stored, torch_file; containers, dialects, finding, apart, reading), written (places, writing) and looked at
(inspection).
"""
