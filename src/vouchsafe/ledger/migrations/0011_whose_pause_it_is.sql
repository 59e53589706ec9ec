-- Whose a pause is, so that no plan ends a pause by hand.

-- The plan whose pause it is that stands; null for one by hand.
alter table campaigns add column pause_plan text collate "C";

-- The changes that were planned together, by the id that the action has in the audit trail. Null for the end of a pause,
-- and for what releases have planned that did not know of this: their resumes end any pause.
alter table planned_changes add column plan text collate "C";
