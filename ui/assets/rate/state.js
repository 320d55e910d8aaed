// What the parts of the rating page share. `rate` makes one of these and every part finds it as `page.state`.
function createState() {
  return {
    card: null, // what is shown: a new comparison, a judgment to correct, a tutorial example, or that nothing is left
    queue: [], // cards fetched before they are needed
    toldGolds: [], // golds that were answered, with their right answers, to be shown
    qualification: null, // why nothing is left, where that is a qualification
    guideline: null, // the guideline of the card's project
    guidelines: {}, // key -> guideline, as the server sent them
    choice: null, // the data-choice of a button, or null
    reason: null, // why the card is skipped or flagged
    scores: {}, // axis -> a score or null for each answer shown
    tutorialExample: null, // the next example of the tutorial
    lastSubmitted: null, // the card answered last, which Undo shows again while its answer is not sent
    isLoading: false, // waiting for the server with nothing else to do
    isInactive: false, // another tab is in use
    undoOnceSent: false, // the answer being sent is to be changed as soon as the server has it
    usesKeyboard: false, // whether the rater's last action was a key
  };
}
