"""Messages whose remedy is performed by another test, by no test, or which are no advice at all."""

ELSEWHERE: dict[str, str] = {
    "{}; free space {} $": "test_files.py::test_what_helps_depends_on_why_nothing_was_written",
    "{}; make it writable {} $": "test_files.py::test_what_helps_depends_on_why_nothing_was_written",
    "cannot write below {}: {}choose another `out`": "test_frames.py::test_a_full_disk_is_one_line",
    "search: missing QUERY": "test_words.py::test_words_find_photos_and_the_encoder_ranks_on_from_them",
    "did not come within {} minutes: look": "test_roll_call.py::test_machines_that_all_come_have_met",
    "ended while {} waited for the others ({}): look": "test_roll_call.py::test_machines_that_all_come_have_met",
    "did not reach the first one at {}:{} within": "test_roll_call.py::test_machines_that_all_come_have_met",
    "another program has {} ({}): set MASTER_PORT": "test_roll_call.py::test_another_program_has_the_port",
    "says that this is one of several processes: set RANK": (
        "test_roll_call.py::test_processes_that_are_not_told_who_they_are"
    ),
    "is no number: unset {}, or let torchrun": "test_roll_call.py::test_a_number_of_processes_that_is_none",
    "is no port: give a number": "test_roll_call.py::test_processes_that_are_not_told_who_they_are",
    "start the same command again$": "test_roll_call.py::test_machines_that_all_come_have_met",
    "cannot copy {} to {}: {}set S2R2_CACHE": "test_object_storage.py::test_a_table_needs_a_place_for_its_copy",
    "cannot reach {} ({}): check the network": "test_object_storage.py::"
    "test_commands_with_a_bucket_and_a_server_that_goes_away",
    "no access to {} ({}): set AWS_ACCESS_KEY_ID": "test_object_storage.py::"
    "test_what_is_not_there_and_who_may_not_look_is_one_line",
    "is a file, but no table (.csv, .parquet) and no .tar: give the folder": "test_object_storage.py::"
    "test_what_is_not_there_and_who_may_not_look_is_one_line",
    "there is nothing at {}: check the name": "test_object_storage.py::"
    "test_what_is_not_there_and_who_may_not_look_is_one_line",
    "name their photos in a table": "test_object_storage.py::test_tables_and_tars_in_a_bucket",
    "only DATA may be at an address": "test_object_storage.py::test_commands_with_a_bucket_and_a_server_that_goes_away",
    "`words`: give 1 to {} characters": "test_words.py::test_words_find_photos_and_the_encoder_ranks_on_from_them",
    "has no vectors for words: add them": "test_words.py::test_words_find_photos_and_the_encoder_ranks_on_from_them",
    "has other weights now than those": "test_words.py::test_an_update_encodes_only_what_is_new",
    "cannot be loaded ({}): choose another `text` model": "test_words.py::test_pickled_weights_are_not_read",
    "holds no weights as .safetensors: other forms are not read": "test_words.py::test_pickled_weights_are_not_read",
    "makes vectors that are not finite: choose another `text`": "test_words.py::test_damaged_models_are_refused",
    "`text`: {} describes no model of open_clip": "test_words.py::test_damaged_models_are_refused",
    "give a model of open_clip, such as": "test_words.py::test_what_is_no_model_is_one_line",
    "give a folder in open_clip's form": "test_words.py::test_what_is_no_model_is_one_line",
    "open_clip knows no model": "test_words.py::test_what_is_no_model_is_one_line",
    "open_clip has no weights": "test_words.py::test_what_is_no_model_is_one_line",
    "cannot be fetched ({}): choose another `text` model": "test_words.py::test_what_is_no_model_is_one_line",
    "is for one process: index with `devices` first": "test_words.py::test_several_processes_are_refused",
    "need a secret: set {} to the same random text": (
        "test_messages.py::test_without_a_secret_nothing_is_sent_or_unpickled"
    ),
    "and make sure that nobody else can reach": "test_messages.py::test_a_strangers_message_is_not_unpickled",
    "memory ran out: start the same command again": "test_several_processes.py::test_a_killed_process_is_a_line",
    "lost another of the {} processes, which ended": "test_several_processes.py::test_a_killed_process_is_a_line",
    "run the same command again": "test_several_processes.py::test_a_killed_process_is_a_line",
    "resume from the last checkpoint with: s2r2 train": (
        "test_processes.py::test_a_frozen_process_without_restarts_is_one_clear_line"
    ),
    "It happens again with s2r2 train --resume --out {}; add `retry_at=0.5`": (
        "test_survival.py::test_a_loss_that_is_nan_names_its_photos_and_can_be_replayed"
    ),
    "and saved; resume with: s2r2 train": "test_training.py::test_interrupt_and_resume_equal_an_undisturbed_run",
    "with {} bytes per number; make them equal": "test_distributed.py::test_gradients_equal_one_process",
    "({}): rebuild it with s2r2 index --rebuild": "test_index_damage.py::test_the_remedy_repairs_every_file",
    ", all trained: to train longer, give more `minutes`": (
        "test_minutes.py::test_a_run_ends_with_its_time_and_says_how_far_it_came"
    ),
    "{} and {} both say how long the run is: leave one": "test_minutes.py::test_two_lengths_are_refused",
    "has trained {} minutes already, and this would": "test_minutes.py::test_less_time_than_was_trained_is_refused",
    "its own photos only: put the encoder into it with s2r2 index": (
        "test_stored_vectors.py::test_the_encoder_is_found_by_what_the_file_says"
    ),
    "as the encoder is not in it: s2r2 index ENCODER DATA": (
        "test_stored_vectors.py::test_the_encoder_is_found_by_what_the_file_says"
    ),
    "`threads={}`: give at least 1": "test_ray.py::test_every_kind_of_batch_gets_the_encoders_vectors",
    "a batch has the columns {}: give it bytes or path": (
        "test_ray.py::test_every_kind_of_batch_gets_the_encoders_vectors"
    ),
    "with what its photos were taken: run s2r2 index once more": (
        "test_filters.py::test_an_index_of_an_earlier_version_is_searched_and_completed_without_embedding"
    ),
    "was cut short: run s2r2 index once more": (
        "test_index_damage.py::test_power_cuts_leave_an_index_that_opens_and_goes_on"
    ),
    "another version of s2r2 wrote it": "test_index_damage.py::test_the_remedy_repairs_every_file",
    "{} of {} trials; call again to go on": "test_study.py::test_a_killed_study_goes_on_to_the_whole_table",
    "{} of {} runs; call again to go on": "test_study.py::test_a_killed_study_goes_on_to_the_whole_table",
    "`strategy='fsdp'` cannot shard backbone {} ({}): use ddp": (
        "test_sharding.py::test_a_backbone_that_cannot_be_shared_out_is_one_line"
    ),
    "Normalization is inside: give pixels": "test_exporting.py::test_the_same_vectors_without_s2r2",
    "Normalize with mean {}": "test_exporting.py::test_the_same_vectors_without_s2r2",
    "This is how s2r2 decodes": "test_exporting.py::test_the_same_vectors_without_s2r2",
    "s2r2 serve --root-path$": "test_page.py::test_behind_a_proxy",
    "MB: choose a smaller one.": "test_page.py::test_a_photo_that_is_too_large_is_refused_by_the_page",
    "A query has at most {} photos: remove one first": "test_page.py::test_more_like_these_and_less_like_those",
    "the server was started by s2r2 serve --no-originals": (
        "test_selections.py::test_selections_are_bounded_and_files_can_be_kept_back"
    ),
    "The browser does not let this page copy: use CSV.": ("test_page.py::test_photos_are_selected_and_taken_away"),
    "which have no place in any ranking": (
        "test_no_direction.py::test_an_evaluation_leaves_the_encoder_out_and_names_the_photo"
    ),
    "held-out views have an embedding of length 0": (
        "test_no_direction.py::test_a_run_with_a_head_of_one_unit_comes_to_its_end"
    ),
    "name it again: s2r2 compare --trust-method FILE": (
        "test_study.py::test_code_that_a_study_names_runs_only_if_the_user_has_named_it"
    ),
    "larger than {} MB: remove lines, or move it away": (
        "test_marks.py::test_bytes_that_are_no_text_and_a_huge_file_are_refused"
    ),
    "({}): correct it, or move it away": "test_marks.py::test_bytes_that_are_no_text_and_a_huge_file_are_refused",
    "with right or wrong as mark, or remove it": (
        "test_marks.py::test_a_line_that_is_no_mark_is_named_and_nothing_is_overwritten"
    ),
    "is full: take some marks back, or move the file away": (
        "test_marks.py::test_marks_are_bounded_in_number_and_in_rate"
    ),
    "marks come faster than they are kept: wait a second": (
        "test_marks.py::test_marks_are_bounded_in_number_and_in_rate"
    ),
    "the server was started by s2r2 serve --read-only": (
        "test_marks.py::test_a_server_that_may_not_write_shows_marks_and_refuses_new_ones"
    ),
    "timm has no place for the head of {}": "test_refine.py::test_timms_form_has_no_place_for_the_head",
    "{} such photos in all, or give `labels`": "test_refine.py::test_what_cannot_be_learned_from_is_one_line",
    "cannot read {} ({}): give a CSV with the columns photo": (
        "test_refine.py::test_what_cannot_be_learned_from_is_one_line"
    ),
    "line 1, lacks photo or label: give a CSV with the columns photo and label": (
        "test_refine.py::test_what_cannot_be_learned_from_is_one_line"
    ),
    "ends too early: give it a photo and a label": "test_refine.py::test_what_cannot_be_learned_from_is_one_line",
    "is no photo of {}; remove the line": "test_refine.py::test_what_cannot_be_learned_from_is_one_line",
    "in a line before; keep one of them": "test_refine.py::test_what_cannot_be_learned_from_is_one_line",
    "compare   s2r2 serve {} --compare": "test_refine.py::test_the_command",
    "{} is the encoder of a run, and would be lost: choose another `out`": (
        "test_exporting.py::test_what_others_have_written_is_not_exported_over"
    ),
    "{} would be lost: move it away, or choose another `out`": (
        "test_exporting.py::test_what_others_have_written_is_not_exported_over"
    ),
    "is read by this command, and would be lost: choose another name": (
        "test_inputs_stay.py::test_photos_are_not_overwritten_by_what_is_told_of_them"
    ),
    "no photo of the index has this {}: {}; try {}": "test_filters.py::test_the_command_filters",
    "would find the copies there: choose a folder beside them": (
        "test_duplicates.py::test_copies_are_not_moved_to_where_they_would_be_found_again"
    ),
    "would be one of its photos: choose a folder beside it": (
        "test_inputs_stay.py::test_a_picture_among_the_photos_would_be_one_of_them"
    ),
    "cannot write {}: it is no regular file; choose another name": (
        "test_files.py::test_no_file_takes_the_place_of_a_pipe_or_device"
    ),
    "{}: with `vectors` nothing is embedded, leave this out": (
        "test_inputs_stay.py::test_options_without_meaning_beside_vectors_are_refused"
    ),
    "is the index itself: choose another `out`": "test_refine.py::test_another_index_is_not_overwritten",
    "choose another `out`, or delete that index": "test_refine.py::test_another_index_is_not_overwritten",
    "cannot write the index {}: {}choose another `out`": (
        "test_refine.py::test_a_second_index_that_cannot_be_written_is_one_line"
    ),
    "its feature head does not fit its features": "test_refine.py::test_a_damaged_head_is_refused",
    "the terminal of s2r2 serve says why": (
        "test_marks.py::test_marks_that_cannot_be_written_are_said_without_the_place"
    ),
    "is for an encoder to start from: name it as `start`": (
        "test_starting.py::test_what_contradicts_a_start_is_refused"
    ),
    "every trial of {} on {} diverged: give it other settings": (
        "test_sharing.py::test_a_trial_that_diverges_is_the_worst_and_not_repeated"
    ),
    "name different weights to begin with: leave out": "test_starting.py::test_what_contradicts_a_start_is_refused",
    "decides the backbone: leave out": "test_starting.py::test_what_contradicts_a_start_is_refused",
    "does not work with `start`: leave out": "test_starting.py::test_what_contradicts_a_start_is_refused",
    "`start={}` has a head: leave out": "test_starting.py::test_what_contradicts_a_start_is_refused",
    "`adapt='head'` is one linear layer": "test_starting.py::test_what_contradicts_a_start_is_refused",
    "has no attention blocks: use": "test_starting.py::test_what_contradicts_a_start_is_refused",
    "`adapt='head'` keeps the features of all views": (
        "test_starting.py::test_features_that_fill_the_memory_are_refused"
    ),
    "is too short: embedding {} views": "test_starting.py::test_minutes_choose_the_views_of_a_head",
    "`adapt='head'` works in one process": "test_starting.py::test_a_head_is_refused_in_several_processes",
    "cannot be adapted as a whole: timm": "test_starting.py::test_a_backbone_without_layers_gets_a_head",
    "`pretrained` is now `start={}`": "test_starting.py::test_the_former_spelling_of_a_start",
    "Is s2r2 serve still running?": "test_page.py::test_a_server_that_comes_back_answers_again",
}
"""A piece of the message: ``file::test`` of the test that performs its remedy."""

NOT_HERE: dict[str, str] = {
    "{} was written by a newer s2r2 (format {}): upgrade": "there is no newer s2r2 to install",
    "the evaluation was written by a newer s2r2": "there is no newer s2r2 to install",
    "checkpoint {} was written by {} s2r2": "needs another version of s2r2",
    "install the timm it was trained with": "needs another version of timm",
    "an AVIF photo that this Pillow does not read": "needs a Pillow before 11.3",
    "reading {} needs another package ({}): install it": "needs a network, and an address of a kind that nobody has",
    "reading {} needs {}: pip install {}": "needs a network",
    "backend 'numba' works on the CPU": "needs a GPU",
    "its tokenizer needs {}: pip install {}": "needs a model from the hub",
}
"""A piece of the message: why one machine with what it has installed cannot perform its remedy."""

NO_ADVICE: dict[str, str] = {
    "export {}={}$": "a line of the script of a job",
    "Train an image encoder on unlabeled photos by ranking": "the help of the command line",
    "Train an encoder on photos, without labels.": "the help of the command line",
    "List the training methods": "the help of the command line",
    "Evaluate an encoder on images it has not seen": "the help of the command line",
    "List the evaluation protocols": "the help of the command line",
    "Compare methods at equal budgets": "the help of the command line",
    "Write the vectors of photos to a table.": "the help of the command line",
    "Make a searchable index of photos": "the help of the command line",
    "Export an encoder for programs": "the help of the command line",
    "Save a picture of what the encoder will see": "the help of the command line",
    "List or delete what is cached on disk": "the help of the command line",
    "s2r2 [-h] [--version]": "the help of the command line",
    "commands (s2r2 COMMAND --help": "the help of the command line",
    "not needed with --resume.": "the help of the command line",
    "tuple[Figure, list[Axes]]": "a type",
    "train, test$": "names of parts",
    "train, test, unlabeled": "names of parts",
    "a table with a column path, and optionally label": "what a manifest is",
    "default-src 'none'": "a header for browsers",
    "list      {}": "a place that is printed",
    "copy of {}": "a name",
    "retry     from the last checkpoint": "what is being done",
    "check     epoch {}": "figures",
    "run       {} x {} = {}": "figures",
    "`strategy='fsdp'` {}$": "what stands before each rule of sharding",
    "run       {}{}$": "how long a run is",
    "chosen    {}: {}, `lr={}`{}$": "what was chosen, as options",
    ", `options={}={}`$": "part of what was chosen",
    "Another program, not s2r2 serve, answers": "what is there, and nothing to do",
}
"""A piece of a text that only looks like advice: what it is."""
