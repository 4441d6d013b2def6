"""Exact de-duplication."""

from hypothesis import given
from hypothesis import strategies as st

from data_recipes.deduplicate import Candidate, cluster_exact


def candidate(number, text, source="a", licence="MIT", heldout=False):
    return Candidate(f"{number:064x}", text, source, licence, heldout)


def test_the_smallest_id_stays_and_the_union_is_kept():
    clusters = cluster_exact(
        [candidate(3, "t", "c", "MIT"), candidate(1, "t", "b", "ISC"), candidate(2, "u"), candidate(5, "t", "b", "MIT")]
    )
    assert [cluster.kept for cluster in clusters] == [f"{1:064x}", f"{2:064x}"]
    assert clusters[0].dropped == (f"{3:064x}", f"{5:064x}")
    assert clusters[0].sources == ("b", "c")
    assert clusters[0].licences == ("ISC", "MIT")


def test_held_out_text_is_never_trained_on():
    (cluster,) = cluster_exact([candidate(1, "t"), candidate(9, "t", heldout=True), candidate(8, "t", heldout=True)])
    assert cluster.kept == f"{8:064x}"
    assert cluster.dropped == (f"{1:064x}", f"{9:064x}")


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from("xyz"), st.booleans()), unique_by=lambda item: item[0]
    ).flatmap(lambda items: st.tuples(st.just(items), st.permutations(items)))
)
def test_clusters_partition_the_documents_in_any_order(pair):
    first, second = ([candidate(number, text, heldout=held) for number, text, held in items] for items in pair)
    clusters = cluster_exact(first)
    assert clusters == cluster_exact(second)
    members = [name for cluster in clusters for name in (cluster.kept, *cluster.dropped)]
    assert sorted(members) == sorted(item.document_id for item in first)
    assert len(clusters) == len({item.text_sha256 for item in first})
