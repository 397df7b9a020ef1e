"""Verbs in the imperative with which docstrings of functions begin; one that is missing is added here."""

from __future__ import annotations

from typing import Final

_WORDS: Final = """
abort accept accumulate acquire activate adapt add adjust admit advance aggregate align allocate allow answer append
apply approve arrange ask assemble assert assign attach attempt attend authenticate authorize average await balance
begin believe bind bisect blend bootstrap bound bracket break bring broadcast buffer build bump cache calculate
calibrate call cancel capture carry cast catch center change charge check choose claim clamp classify clean clear clip
clone close collapse collect combine commit compare compensate complete compress compute concatenate condense
configure confirm connect consume continue contract convert copy correct count cover create crop cut deactivate decay
decide declare decode decompose decompress decrement decrypt deduplicate defer define delete deliver demote dequantize
derive describe deserialize detach detect determine diagnose differentiate disable discard disconnect discover
dispatch display distribute divide do double download drain draw drive drop dump duplicate embed emit empty enable
encode encrypt end enforce enqueue enrol ensure enter enumerate escape estimate evaluate evict examine exchange
exclude execute exit expand expire explain export expose express extend extract factor factorize fail fall fence fetch
fill filter finalize find fingerprint finish fit fix flag flatten flush fold follow forbid force forget fork format
forward free freeze fuse gate gather generate get give go grant group grow guarantee guard guess halve hand handle
hash heal hear hide hold identify ignore import improve include increase increment index indicate infer inherit
initialise initialize inject insert inspect install integrate interpolate interpret interrupt intersect invert invoke
issue iterate join judge keep kill label launch lay lead leave let lift limit link list listen load localize locate
lock log look make manage map mark mask match materialise materialize maximise maximize measure merge meter migrate
minimise minimize mirror mix modify monitor mount move multiply mute name narrow negate normalise normalize note
notify observe obtain offer offload omit open optimise optimize order overlay overwrite pack pad page paginate pair
parse partition pass patch pause pay penalise penalize perform permit permute persist pick pin place plan plot poll
pop populate post predict prefer prefetch prepare prepend preserve prevent print probe process produce profile project
promote prompt propagate propose protect prove provide prune publish pull purge push put quantise quantize query queue
raise rank read rearrange rebuild recall receive recognise recompute reconcile reconstruct record recover redirect
reduce refine refit refresh refuse register reject relax relay release reload relocate remember remove rename render
renew reorder repair repeat replace replay replicate report represent request require reroute rescale reserve reset
reshape resize resolve respond restart restore restrict resume retain retrain retrieve retry return reuse reveal
reverse revert revoke rewind rewrite roll rotate round route run sample save say scale scan scatter schedule scope
score scrub search seed seek select send separate serialise serialize serve set shard share shift show shrink shuffle
shut sign signal simplify simulate skip sleep slice smooth solve sort span spawn specify spend spill split spread
stack start state step stop store stream stretch strip submit subscribe substitute subtract suggest sum summarise
summarize supply suspend swap sweep switch sync synchronize tag take tell terminate test throttle tie time toggle
tokenise tokenize touch trace track train transfer transform translate transpose traverse treat trigger trim truncate
try tune turn undo unfold unfreeze unlink unload unlock unpack unregister unwrap update upgrade upload use validate
verify view visit wait wake walk warn watch weigh widen withdraw work wrap write yield zero
"""
VERBS: Final = frozenset(_WORDS.split())
NOUNS_TOO: Final = frozenset(
    {
        "average",
        "copy",
        "count",
        "hash",
        "list",
        "map",
        "mask",
        "name",
        "order",
        "pair",
        "rank",
        "sample",
        "score",
        "sum",
        "view",
    }
)
"""Verbs that are nouns before `of`."""
