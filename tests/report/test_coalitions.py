from alignstack.report.schema import Report


def test_with_the_named_ones_every_subset_of_the_layers_that_looked_is_there_once(report: Report) -> None:
    idle = {layer["name"] for layer in report["layers"] if not layer["looked"]}
    twice = ("only rate_limit", "only model")
    subsets = [frozenset(one["on"]) - idle for one in report["configurations"] if one["name"] not in twice]
    assert idle == {"rate_limit"}
    assert len(set(subsets)) == len(subsets) == 2 ** (len(report["layers"]) - 1)


def test_leaving_one_out_differs_from_the_full_stack_by_its_leave_one_out_value(report: Report) -> None:
    by_name = {one["name"]: one for one in report["configurations"]}
    for layer in report["layers"]:
        if f"all but {layer['name']}" in by_name:
            gap = by_name[f"all but {layer['name']}"]["asr"]["value"] - by_name["full stack"]["asr"]["value"]
            assert abs(gap - layer["leave_one_out"]["safe"]) < 1e-5
